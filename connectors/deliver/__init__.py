"""Alerts to people and systems, and their answers back: webhooks, HL7 v2 (IHE ACM PCD-04 and PCD-05), FHIR R4."""
