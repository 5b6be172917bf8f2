"""What a sender is told, and when: HTTP statuses and OperationOutcome.

https://hl7.org/fhir/R4/http.html, https://hl7.org/fhir/R4/operationoutcome.html

| trouble | status |
|---|---|
| stored and usable | 200, 201 on create |
| stored, a value cannot be used | the same, with a warning; that value goes to the dead letters |
| understood, and not for Vigil | 200 with a note (422 by setting) |
| no or wrong token | 401 |
| type or interaction not in the CapabilityStatement | 404, 405 |
| request not complete in time | 408 |
| deleted: what the id is remembered to have said is taken back | 200; 404 where nothing is known of it, 409 of several |
| too long | 413 |
| neither JSON nor XML by its content type, or compressed | 415 |
| neither JSON nor XML, or not the structure of its type | 400 |
| structure right, with a modifier that is not known | 422 |
| structure right, content contradicts itself (id in URL and body) | 400 |
| Kafka did not confirm in time, or too many requests at once | 503 with Retry-After |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Verdict = Literal["accepted", "refused", "ignored", "dead-letter"]
Severity = Literal["fatal", "error", "warning", "information"]

MEDIA_TYPE: Final = "application/fhir+json"
OK: Final = 200
CREATED: Final = 201
BAD_REQUEST: Final = 400
UNAUTHORIZED: Final = 401
NOT_FOUND: Final = 404
NOT_ALLOWED: Final = 405
TIMED_OUT: Final = 408
CONFLICT: Final = 409
TOO_LARGE: Final = 413
UNSUPPORTED_MEDIA_TYPE: Final = 415
UNPROCESSABLE: Final = 422
UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class Issue:
    """One OperationOutcome.issue. `code` is from http://hl7.org/fhir/issue-type; `expression` a FHIRPath into what was sent.

    `diagnostics` must carry no patient text: it is logged and stands in dead letters.
    """

    severity: Severity
    code: str
    diagnostics: str
    expression: str = ""

    def __str__(self) -> str:
        return f"{self.expression}: {self.diagnostics}" if self.expression else self.diagnostics

    @property
    def is_error(self) -> bool:
        """Whether it stands against accepting."""
        return self.severity in ("fatal", "error")

    def within(self, expression: str) -> "Issue":
        """Return the same issue with its place inside a Bundle: `Observation.code` -> `Bundle.entry[3].resource.code`."""
        rest = self.expression.partition(".")[2]
        return Issue(self.severity, self.code, self.diagnostics, f"{expression}.{rest}" if rest else expression)

    def json(self) -> dict[str, Any]:
        """Return the issue as it stands in an OperationOutcome."""
        shown: dict[str, Any] = {"severity": self.severity, "code": self.code, "diagnostics": self.diagnostics}
        if self.expression:
            shown["expression"] = [self.expression]
        return shown


def operation_outcome(issues: Sequence[Issue]) -> dict[str, Any]:
    """Return an OperationOutcome; it must have an issue, so that of none says that all is well (as the standard's example)."""
    shown = [issue.json() for issue in issues] or [
        {"severity": "information", "code": "informational", "diagnostics": "All OK"}
    ]
    return {"resourceType": "OperationOutcome", "issue": shown}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()


def refusal(
    status: int, code: str, diagnostics: str, *, retry_after: int | None = None, severity: Severity = "error"
) -> Answer:
    """Return an answer that is one issue."""
    headers = (("Retry-After", str(retry_after)),) if retry_after is not None else ()
    if status == UNAUTHORIZED:
        headers = (("WWW-Authenticate", 'Bearer realm="vigil"'),)
    return Answer(status, operation_outcome((Issue(severity, code, diagnostics),)), headers)


def unconfirmed(retry_after: int) -> Answer:
    """Return the answer where Kafka did not confirm: the events may be stored or not, and a resend has the same ids."""
    return refusal(UNAVAILABLE, "transient", "not confirmed as stored, send again", retry_after=retry_after)
