"""An alert as FHIR R4 resources, written to a server by its RESTful interface.

Each step: a Communication, by conditional create (If-None-Exist on the step's identifier), so a repetition makes no second one.
Each alert (by setting): a Flag, by conditional update, active while the alert stands, entered-in-error when it was withdrawn.

The patient stands as a logical reference: the hospital's number with the authority's FHIR system, where both are known; else
Vigil's own pseudonym (system urn:vigil:patient). A number whose authority has no system is for people to read (`display`) and not
to look up by: without its authority it may be somebody else's. Who answers writes a Communication with
inResponseTo.identifier (system urn:vigil:alert, of one or several alerts) and, as sender, a Practitioner or their identifier, to
Vigil's FHIR endpoint: completed acknowledges, not-done declines, entered-in-error takes that back.
"""

from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import orjson

from connectors.deliver.notice import Notice
from connectors.deliver.person import Number, Person
from connectors.deliver.settings import FhirReceiverSettings
from connectors.deliver.webhook import exchange, http_client
from connectors.fhir.client import TokenFile
from connectors.identity import PREFERRED_KINDS
from processors.events import AlertEvent, Severity

ALERT: Final = "urn:vigil:alert"  # one alert over its life
STEP: Final = "urn:vigil:alert-step"  # one step of it, or one notice of silence
PATIENT: Final = "urn:vigil:patient"
PRIORITIES: Final[dict[Severity, str]] = {"information": "routine", "low-medium": "asap", "medium": "urgent", "high": "stat"}
_CATEGORY: Final = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/communication-category", "code": "alert"}]}
_FLAG_CATEGORY: Final = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/flag-category", "code": "clinical"}]}
TEST: Final = {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]}
_KINDS: Final = frozenset({*PREFERRED_KINDS, "NI", "VN"})  # other types may be a sender's own, and no codes of table 0203
_MEDIA_TYPE: Final = "application/fhir+json"
HEADERS: Final = {"content-type": _MEDIA_TYPE, "accept": _MEDIA_TYPE, "prefer": "return=minimal"}


def communication_of(notice: Notice) -> dict[str, Any]:
    """Return the Communication of a notice."""
    alert = notice.alert
    resource: dict[str, Any] = {
        "resourceType": "Communication",
        "identifier": [{"system": STEP, "value": notice.id}],
        "status": "completed",
        "category": [_CATEGORY],
        "priority": PRIORITIES[alert.severity] if alert else "stat",
        "sent": time_of(notice.at),
        "sender": {"display": "Vigil"},
        "payload": [{"contentString": notice.title}],
    }
    if notice.kind == "test":
        resource["meta"] = TEST
    if alert is not None:
        resource["identifier"].append({"system": ALERT, "value": alert.alert_id})
        resource |= about(alert.patient_id, notice.person)
        resource["payload"].append({"contentString": f"{alert.state}: {alert.detail}"})
        at = alert.location
        place = " ".join(filter(None, (at.ward, at.room, at.bed, at.facility)))
        if place:
            resource["payload"].append({"contentString": f"Location: {place}"})
    return resource


def flag_of(notice: Notice, alert: AlertEvent) -> dict[str, Any]:
    """Return the Flag of an alert as it stands now."""
    over = {"withdrawn": "entered-in-error", "resolved": "inactive", "declined": "inactive"}
    period = {"end": time_of(alert.decided_at)} if alert.state in over else {"start": time_of(alert.observed_at)}
    return {
        "resourceType": "Flag",
        "identifier": [{"system": ALERT, "value": alert.alert_id}],
        "status": over.get(alert.state, "active"),
        "category": [_FLAG_CATEGORY],
        "code": {"text": notice.title},
        **about(alert.patient_id, notice.person),
        "period": period,
    }


def about(patient_id: str, person: Person | None) -> dict[str, Any]:
    """Return `subject` and, where the visit number is known, `encounter`."""
    subject: dict[str, Any] = {"type": "Patient", "identifier": {"system": PATIENT, "value": patient_id}}
    if person is None:
        return {"subject": subject}
    first = person.numbers[0]
    subject["display"] = f"{first.value} ({first.authority})"
    if first.system:
        subject["identifier"] = _identifier(first)
    if person.visit is None:
        return {"subject": subject}
    return {"subject": subject, "encounter": {"type": "Encounter", "identifier": _identifier(person.visit)}}


def _identifier(number: Number) -> dict[str, Any]:
    made: dict[str, Any] = {"system": number.system} if number.system else {"assigner": {"display": number.authority}}
    if number.kind in _KINDS:
        made["type"] = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": number.kind}]}
    return made | {"value": number.value}


def time_of(at: datetime) -> str:
    """Return an instant."""
    return at.isoformat(timespec="milliseconds")


class FhirReceiver:
    """One FHIR server."""

    def __init__(self, settings: FhirReceiverSettings) -> None:
        self._settings = settings
        self._base = settings.url.rstrip("/")
        auth = TokenFile(settings.token_file) if settings.token_file else None
        self._client = http_client(settings.timeout, settings.ca_file, auth)

    async def send(self, notice: Notice) -> None:
        """Write the Communication, then the Flag; both may be repeated. Raises `Unavailable` or `Refused`."""
        none_yet = {"if-none-exist": f"identifier={quote(f'{STEP}|{notice.id}', safe='')}"}
        await self._write("POST", f"{self._base}/Communication", communication_of(notice), none_yet, notice)
        if notice.alert is not None and notice.kind == "alert" and self._settings.flag:
            which = quote(f"{ALERT}|{notice.alert.alert_id}", safe="")
            url = f"{self._base}/Flag?identifier={which}"
            await self._write("PUT", url, flag_of(notice, notice.alert), {}, notice)

    async def _write(self, method: str, url: str, resource: dict[str, Any], headers: dict[str, str], notice: Notice) -> None:
        headers = {**HEADERS, **headers}
        await exchange(self._client, method, url, orjson.dumps(resource), headers, notice, self._settings.timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
