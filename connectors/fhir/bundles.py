"""The parts of a Bundle: its entries on the way in, the Bundle that answers on the way out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from connectors.fhir.acknowledgement import (
    BAD_REQUEST,
    CONFLICT,
    CREATED,
    NOT_FOUND,
    OK,
    UNPROCESSABLE,
    Answer,
    Issue,
    operation_outcome,
)
from connectors.fhir.capability import DELETABLE, SUPPORTED
from connectors.fhir.mapping.reading import Reading, objects, text
from connectors.fhir.structure import Json, kind_of, too_many, validate
from connectors.fhir.subscriptions import Status
from connectors.fhir.understanding import modifier_issues, status_issues

NOTIFICATIONS: Final = frozenset({"history", "subscription-notification"})  # Bundle types of R4 and R4B, and of R5
_USED: Final = frozenset({*SUPPORTED, "MessageHeader"})
STAND_IN: Final[Json] = {"resource": {"resourceType": "Basic", "code": {"text": "stands in"}}}


@dataclass(slots=True)
class Entry:
    """One resource of a request, and what was found."""

    resource: Json
    place: str = ""  # in the Bundle; empty for a resource by itself
    method: str = "POST"  # empty where a Bundle asks for nothing
    target: str = ""  # what the request is to: its URL
    url: str = ""  # fullUrl
    issues: list[Issue] = field(default_factory=list)
    reading: Reading | None = None
    status: int = OK
    indexed: bool = True  # references may find it

    @property
    def refused(self) -> bool:
        """Whether something stands against accepting it."""
        return any(issue.is_error for issue in self.issues)

    @property
    def refusal(self) -> int:
        """The status to refuse it with."""
        return self.status if self.status in (UNPROCESSABLE, NOT_FOUND, CONFLICT) else BAD_REQUEST

    @property
    def deletes(self) -> bool:
        """Whether it says that a resource is deleted: it has none then, but for its type and id (`entries_of`)."""
        return self.method == "DELETE"

    def check(self, most: int) -> None:
        """Say what stands against using the resource: its size, else its structure, else its status, else a modifier.

        `most`: how often one element may be there, of a type that is taken. A resource that only others are read by (a Location, a
        Binary) is not looked up then. What is deleted has nothing to check.
        """
        if self.deletes:
            return
        if kind_of(self.resource) in SUPPORTED:
            self.say(*too_many(self.resource, most))
        if not self.refused:
            self.say(*validate(self.resource))
        if not self.refused:
            self.say(*status_issues(self.resource))
        if not self.refused and (found := modifier_issues(self.resource)):
            self.indexed = False
            if kind_of(self.resource) in _USED:
                self.status = UNPROCESSABLE
                self.say(*found)

    def say(self, *issues: Issue) -> None:
        """Add issues, with their place in the Bundle."""
        self.issues += [issue.within(f"{self.place}.resource") if self.place else issue for issue in issues]


def entries_of(bundle: Json) -> Iterable[Entry]:
    """Return the entries of a Bundle whose envelope is right."""
    asks = text(bundle.get("type")) in ("batch", "transaction", *NOTIFICATIONS)
    for n, one in enumerate(bundle.get("entry") or []):
        given, asked = one.get("resource"), one.get("request")
        asked = asked if isinstance(asked, dict) else {}
        entry = Entry(
            resource=given if isinstance(given, dict) else {},
            place=f"Bundle.entry[{n}]",
            method=text(asked.get("method")) if asks else "",
            target=text(asked.get("url")),
            url=text(one.get("fullUrl")),
        )
        if entry.deletes:
            kind, name = _named(entry.target or entry.url)
            entry.resource, entry.indexed = {"resourceType": kind, "id": name} if kind else {}, False
        elif given and not kind_of(entry.resource):
            entry.say(Issue("error", "structure", "not a resource"))
        yield entry


def _named(url: str) -> tuple[str, str]:
    """Return the type and id that a resource's URL ends with, both empty where it is none (a search)."""
    steps = url.split("/_history/")[0].strip("/").split("/")
    return (steps[-2], steps[-1]) if len(steps) > 1 and "?" not in url and steps[-1] else ("", "")


def request_issues(entry: Entry) -> list[Issue]:
    """Return what stands against doing what an entry of a batch or transaction asks.

    What holds for a request by itself holds here: the URL names the type, for an update the id too, and both are the resource's.
    A conditional update names an identifier instead, one that the resource has: what else it may ask for cannot be searched here.
    """
    asked = f"{entry.place}.request"
    if not entry.method:  # invariant bdl-3
        return [Issue("error", "required", "an entry of a batch or transaction without a request", asked)]
    if entry.method not in ("POST", "PUT", "DELETE"):
        words = "only POST, PUT and DELETE are taken: nothing can be read or changed in part here"
        return [Issue("error", "not-supported", words, f"{asked}.method")]
    if entry.deletes:
        if not all(_named(entry.target)):
            return [Issue("error", "not-supported", "only what is named by type and id is deleted", f"{asked}.url")]
        return [deletion_issue(kind_of(entry.resource), f"{asked}.url")] if kind_of(entry.resource) not in DELETABLE else []
    if not entry.resource:
        return [Issue("error", "required", "an entry without a resource", f"{entry.place}.resource")]
    steps, kind = entry.target.partition("?")[0].strip("/").split("/"), kind_of(entry.resource)
    if entry.method == "POST" or "?" in entry.target:
        if steps[-1] != kind:
            return [Issue("error", "invalid", "not the URL of the resource's type", f"{asked}.url")]
        if entry.method == "PUT" and condition_of(entry) is None:
            words = "a conditional update is taken by one identifier, which the resource has too"
            return [Issue("error", "not-supported", words, f"{asked}.url")]
        return []
    if len(steps) < 2 or steps[-2] != kind or not steps[-1]:
        return [Issue("error", "invalid", "not the URL of a resource of that type", f"{asked}.url")]
    if entry.resource.get("id") != steps[-1]:
        return [Issue("error", "invalid", "the resource's id is not the id in the URL", f"{entry.place}.resource.id")]
    return []


def deletion_issue(kind: str, place: str) -> Issue:
    """Return the refusal to delete what is not remembered by its id."""
    words = (
        "of this type nothing is deleted: send it as entered in error"
        if kind in SUPPORTED
        else "this resource type is not taken"
    )
    return Issue("error", "not-supported", words, place)


def condition_of(entry: Entry) -> str | None:
    """Return what names the resource of a conditional update, empty for any other request; None where it is none that is taken."""
    if entry.method != "PUT" or "?" not in entry.target:
        return ""
    asked = parse_qsl(entry.target.partition("?")[2], keep_blank_values=True)
    if [name for name, _ in asked] != ["identifier"]:
        return None
    system, bar, value = asked[0][1].rpartition(
        "|"
    )  # R4 search.html#token: without a bar any system, with nothing before it none
    named = [
        (text(one.get("system")), text(one.get("value"))) for one in objects(entry.resource, "masterIdentifier", "identifier")
    ]
    found = [one for one in named if value and one[1] == value and (not bar or one[0] == system)]
    return f"?{found[0][0]}|{value}" if found else None


def overlap_issues(entries: Iterable[Entry]) -> list[Issue]:
    """Return the entries of a transaction that update or delete what another one does: it fails then (R4 http.html#trules)."""
    seen, found = set[tuple[str, str]](), list[Issue]()
    for entry in entries:
        name = kind_of(entry.resource), text(entry.resource.get("id")) or condition_of(entry) or ""
        if entry.method in ("PUT", "DELETE") and name[1]:
            if name in seen:
                words = "another entry of the transaction updates or deletes the same resource"
                found.append(Issue("error", "duplicate", words, f"{entry.place}.request.url"))
            seen.add(name)
    return found


def announced(notification: Status, entries: list[Entry]) -> tuple[str, ...]:
    """Return the references that a notification names without carrying the resource."""
    if not notification.carries_events:
        return ()
    carried = {
        f"{kind_of(entry.resource)}/{text(entry.resource.get('id'))}" for entry in entries if entry.resource
    }  # deleted too
    named = [*(entry.url for entry in entries if not entry.resource and entry.url), *notification.focus]
    missing = [one for one in dict.fromkeys(named) if "/".join(one.split("/_history/")[0].split("/")[-2:]) not in carried]
    return tuple(one for one in missing if one.rstrip("/").split("/")[-2:-1] and one.rstrip("/").split("/")[-2] in SUPPORTED)


def message_of(entries: list[Entry]) -> tuple[list[Entry], Issue | None]:
    """Return the entries behind a MessageHeader, or why it is no message."""
    if not entries or kind_of(entries[0].resource) != "MessageHeader":
        return [], Issue("error", "required", "a message begins with a MessageHeader", "Bundle.entry[0].resource")
    return entries[1:], next((issue for issue in entries[0].issues if issue.is_error), None)


def answer_of(bundle: Json, kind: str, entries: list[Entry]) -> Answer:
    """Return the answer to a Bundle: the response Bundle of its type, or an OperationOutcome."""
    if kind == "message":
        return Answer(OK, message_response(bundle, entries))
    if kind not in ("batch", "transaction"):
        return Answer(OK, operation_outcome([issue for entry in entries for issue in entry.issues]))
    answered = []
    for entry in entries:
        response: dict[str, Any] = {"status": _status_line(entry.status)}
        if entry.reading and entry.reading.stored and entry.status in (OK, CREATED) and not entry.deletes:
            response["location"] = location_of(entry)
        if entry.issues:
            response["outcome"] = operation_outcome(entry.issues)
        answered.append({"response": response})
    body: dict[str, Any] = {"resourceType": "Bundle", "type": f"{kind}-response"}
    return Answer(OK, body | ({"entry": answered} if answered else {}))


def message_response(bundle: Json, entries: list[Entry]) -> dict[str, Any]:
    """Return the response message: https://hl7.org/fhir/R4/messageheader.html#response ."""
    header = next(objects(next(iter(bundle["entry"]), {}), "resource"), {})
    event: dict[str, Any] = {name: header[name] for name in ("eventCoding", "eventUri") if name in header}
    response: dict[str, Any] = {"identifier": text(header.get("id")) or "unknown", "code": "ok"}
    issues = [issue for entry in entries for issue in entry.issues]
    answer: dict[str, Any] = {
        "resourceType": "MessageHeader",
        **event,
        "source": {"endpoint": "urn:vigil"},
        "response": response,
    }
    found = [{"resource": answer}]
    if issues:
        found.append({"resource": operation_outcome(issues)})
    return {"resourceType": "Bundle", "type": "message", "entry": found}


def location_of(entry: Entry) -> str:
    """Return where a resource would be: its type and id."""
    assert entry.reading is not None
    return f"{entry.reading.kind}/{entry.reading.logical_id}"


def _status_line(status: int) -> str:
    words = {OK: "OK", CREATED: "Created", BAD_REQUEST: "Bad Request", NOT_FOUND: "Not Found", CONFLICT: "Conflict"}
    return f"{status} {words.get(status, 'Unprocessable Entity')}"
