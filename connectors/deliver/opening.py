"""From a receiver's settings to the way to it."""

from connectors.deliver.fhir import FhirReceiver
from connectors.deliver.notice import Receiver
from connectors.deliver.pcd import PcdReceiver
from connectors.deliver.risk import FhirScores
from connectors.deliver.settings import AnyReceiver, FhirScoresSettings, PcdSettings, WebhookSettings
from connectors.deliver.webhook import WebhookReceiver


def open_receiver(settings: AnyReceiver) -> Receiver:
    """Return the way to a receiver; nothing is connected yet. Raises `Permanent` for files that are not what they should be."""
    if isinstance(settings, WebhookSettings):
        return WebhookReceiver(settings)
    if isinstance(settings, PcdSettings):
        return PcdReceiver(settings)
    if isinstance(settings, FhirScoresSettings):
        return FhirScores(settings)
    return FhirReceiver(settings)
