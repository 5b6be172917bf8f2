"""Scores as FHIR R4 RiskAssessment (https://hl7.org/fhir/R4/riskassessment.html), written to a server by its RESTful interface.

One resource for each method that gave a score after a set of vitals, by conditional create (If-None-Exist), so that a repetition
makes no second one:

| element | NEWS2 | deterioration |
|---|---|---|
| identifier | urn:vigil:score, the score's id and `-news2` | the same and `-deterioration` |
| status | final; preliminary while parameters are missing (the total may be higher) | final |
| method | NEWS2, Royal College of Physicians 2017 | the model's name, version and digest |
| prediction.qualitativeRisk | the band, table risk-probability | - |
| prediction.probabilityDecimal | - (a score is no probability) | the model's, within its horizon |
| basis | urn:vigil:vitals, the set that was scored | the same |

Subject and encounter: as in `connectors.deliver.fhir`. Where a method gave nothing (no NEWS2 for a child, no model) no
resource is written: its absence is no low risk.
"""

from typing import Any, Final
from urllib.parse import quote

import orjson

from connectors.deliver.fhir import HEADERS, TEST, about, time_of
from connectors.deliver.notice import Notice
from connectors.deliver.person import Person
from connectors.deliver.settings import FhirScoresSettings
from connectors.deliver.webhook import exchange, http_client
from connectors.fhir.client import TokenFile
from processors.events import Deterioration, News2, ScoreEvent, VitalsEvent

SCORE: Final = "urn:vigil:score"
VITALS: Final = "urn:vigil:vitals"
_BANDS: Final = {
    "low": ("low", "Low likelihood"),
    "low-medium": ("low", "Low likelihood"),
    "medium": ("moderate", "Moderate likelihood"),
    "high": ("high", "High likelihood"),
}
_RISK: Final = "http://terminology.hl7.org/CodeSystem/risk-probability"
_NOTE: Final = "Computed by Vigil, which assists and does not diagnose. The bedside monitor stays primary."


def assessments_of(score: ScoreEvent, person: Person | None = None, *, test: bool = False) -> list[dict[str, Any]]:
    """Return the RiskAssessments of a score: none, one or two."""
    made = []
    if score.news2 is not None:
        made.append(_assessment(score, person, "news2", _news2(score.news2), test))
    if score.deterioration is not None:
        made.append(_assessment(score, person, "deterioration", _deterioration(score.deterioration), test))
    return made


def _assessment(score: ScoreEvent, person: Person | None, method: str, own: dict[str, Any], test: bool) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "identifier": [{"system": SCORE, "value": f"{score.id}-{method}"}],
        **about(score.patient_id, person),
        "occurrenceDateTime": time_of(score.observed_at),
        "performer": {"display": "Vigil"},
        **_basis(score),
        "note": [{"text": _NOTE}],
        **own,
    }
    if test or score.processing != "production":
        resource["meta"] = TEST
    return resource


def _basis(score: ScoreEvent) -> dict[str, Any]:
    """Return the set that was scored; a score that follows from a context does not name it."""
    if score.source.topic != VitalsEvent.topic:
        return {}
    return {"basis": [{"identifier": {"system": VITALS, "value": score.source.event_id}}]}


def _news2(news2: News2) -> dict[str, Any]:
    code, words = _BANDS[news2.band]
    parts = ", ".join(f"{one.name} {one.value} {one.unit}".rstrip() + f" ({one.points})" for one in news2.parameters)
    missing = f"; missing: {', '.join(news2.missing)}" if news2.missing else ""
    refused = "".join(f"; {one.name} could not be used: {one.reason}" for one in news2.refused)
    return {
        "status": "preliminary" if news2.at_least else "final",
        "method": {"text": f"NEWS2 (Royal College of Physicians 2017), SpO2 scale {news2.scale}"},
        "prediction": [
            {
                "outcome": {"text": "Acute clinical deterioration"},
                "qualitativeRisk": {"coding": [{"system": _RISK, "code": code, "display": words}], "text": news2.band},
                "rationale": f"NEWS2 {'at least ' if news2.at_least else ''}{news2.total}: {parts}{missing}{refused}",
            }
        ],
    }


def _deterioration(found: Deterioration) -> dict[str, Any]:
    model = found.model
    drivers = ", ".join(f"{one.name} {one.effect:+.3f}" for one in found.drivers)
    return {
        "status": "final",
        "method": {"text": f"{model.name} {model.version}, SHA-256 {model.digest}"},
        "prediction": [
            {
                "outcome": {"text": f"Acute clinical deterioration within {found.horizon_hours} h"},
                "probabilityDecimal": round(found.probability, 4),
                **({"rationale": f"What moved it: {drivers}"} if drivers else {}),
            }
        ],
    }


class FhirScores:
    """One FHIR server that takes RiskAssessments."""

    def __init__(self, settings: FhirScoresSettings) -> None:
        self._settings = settings
        self._url = f"{settings.url.rstrip('/')}/RiskAssessment"
        auth = TokenFile(settings.token_file) if settings.token_file else None
        self._client = http_client(settings.timeout, settings.ca_file, auth)

    async def send(self, notice: Notice) -> None:
        """Write what a score says; may be repeated whole. Raises `Unavailable` or `Refused`."""
        if notice.score is None:  # silence and the like are told to receivers of alerts
            return
        for resource in assessments_of(notice.score, notice.person, test=notice.kind == "test"):
            value = resource["identifier"][0]["value"]
            headers = {**HEADERS, "if-none-exist": f"identifier={quote(f'{SCORE}|{value}', safe='')}"}
            body = orjson.dumps(resource)
            await exchange(self._client, "POST", self._url, body, headers, notice, self._settings.timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
