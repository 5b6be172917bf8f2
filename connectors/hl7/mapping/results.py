"""ORU^R01 as a whole: whose it is, its orders, and which of its observations are vital signs, report text or neither.

What is neither is counted, but for a report whose text cannot be had: where an order has nothing that is used, that is a trouble.

| the order has | |
|---|---|
| RP, and nothing beside it but ST | a document elsewhere, not fetched |
| ST that the peer's `text_types` does not take, and that says it is a report | a report in ST, with the setting that takes it |
| anything else | counted: laboratory values |

ST says so by its code (`codes.REPORT_LOINC`, `REPORT_SUFFIX`), its section (OBR-24, `REPORT_SECTIONS`), or as base64 of a document.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from connectors.contexts import Contexts
from connectors.hl7.errors import Condition, Location, Unreadable
from connectors.hl7.mapping.codes import NO_RESULT, REPORT_LOINC, REPORT_SECTIONS, REPORT_SUFFIX, RETRACTED, codings
from connectors.hl7.mapping.documents import NOT_FETCHED, Report, publish_report
from connectors.hl7.mapping.embedded import is_document, pieces_of
from connectors.hl7.mapping.facts import fact_of, read_fact
from connectors.hl7.mapping.patients import Book
from connectors.hl7.mapping.persons import fill
from connectors.hl7.mapping.reading import Reading
from connectors.hl7.mapping.standing import check_order, own_letter
from connectors.hl7.mapping.vitals import Observed, is_vital, observe, publish_sets, recall
from connectors.hl7.message import Segment


@dataclass(slots=True)
class Order:
    """An OBR with what follows it, and the PID and PV1 it stands under."""

    pid: Segment | None
    pv1: Segment | None
    obr: Segment | None
    body: list[Segment] = field(default_factory=list)


def orders(segments: tuple[Segment, ...]) -> Iterator[Order]:
    """Cut a result message into orders. OBX without OBR, OBR without ORC, several patients: all as they come."""
    pid = pv1 = None
    order: Order | None = None
    for segment in segments:
        match segment.name:
            case "PID":
                pid, pv1 = segment, None
                if order:
                    yield order
                order = None
            case "PV1":
                pv1 = segment
                if order and order.pid is pid:
                    order.pv1 = segment
            case "OBR":
                if order:
                    yield order
                order = Order(pid, pv1, segment)
            case "OBX" | "NTE":
                if order is None and (segment.name == "OBX" or pid is not None):
                    order = Order(pid, pv1, None)
                if order:
                    order.body.append(segment)
    if order:
        yield order


def map_results(reading: Reading, contexts: Contexts) -> None:
    """Map an ORU^R01 (and its relatives of the same structure). Raises `Unreadable` when it has no results to speak of."""
    if not any(segment.name in ("OBR", "OBX") for segment in reading.message.segments):
        raise Unreadable("a result message without OBR and OBX", Location("OBR"))
    book = Book(reading, contexts, reading.sent_at)
    for order in orders(reading.message.segments):
        observed, report, facts = _sort(reading, order)
        if not observed and not facts and not report.parts and not report.statuses:
            continue
        check_order(reading, order.obr)
        subject = reading.watched(order.pid)
        if subject is None:
            reading.held_apart(order.pid, order.pv1, order.body)
            continue
        encounter_id = reading.encounter_id(order.pv1, subject)
        for fact in facts:
            book.write(subject.patient_id, fact, fact=True)
        before = len(reading.events)
        publish_sets(reading, subject, encounter_id, observed)
        if report.parts or report.statuses:
            publish_report(reading, subject, encounter_id, report, order.obr)
        fill(book, order.pid, order.pv1, subject, reading.events[before:])
    book.close(first=True)


def _sort(reading: Reading, order: Order) -> tuple[list[Observed], Report, list[dict[str, Any]]]:
    observed: list[Observed] = []
    facts: list[dict[str, Any]] = []
    report = Report()
    others: list[Segment] = []
    settings = reading.peer.settings
    for segment in order.body:
        if segment.name == "NTE":
            report.add_note(reading, segment)
        elif plain := recall(reading, segment, order.obr):
            observed += plain
        elif meaning := fact_of(reading, segment):
            facts += [fact] if (fact := read_fact(reading, segment, meaning, order.obr)) else []
        elif is_vital(reading, segment):
            observed += observe(reading, segment, order.obr)
        elif segment.get(2).upper() in settings.text_types:
            report.add(reading, segment)
        elif settings.unmapped == "dead-letter" and segment.get(2).upper() in ("NM", "SN"):
            reading.trouble("an observation code that no table knows", segment.at(3), Condition.TABLE_VALUE_NOT_FOUND)
        else:
            others.append(segment)
    report.finish(reading)
    used = observed or facts or report.parts or report.statuses
    if others and (used or not _textless(reading, order.obr, others)):
        reading.skipped["observations that are neither vital signs nor text"] += len(others)
    return observed, report, facts


def _textless(reading: Reading, obr: Segment | None, others: list[Segment]) -> bool:
    """Note a report whose text cannot be had; False where the observations are none."""
    others = [one for one in others if one.raw(5) and own_letter(reading, one) not in NO_RESULT | RETRACTED | {"X"}]
    reference = next((one for one in others if one.get(2).upper() == "RP"), None)
    text = next((one for one in others if one.get(2).upper() == "ST" and _says_report(obr, one)), None)
    if text is not None:
        setting = f"connectors.mllp.peers.{reading.peer.name}.text_types"
        reading.trouble(f"a report in ST, which {setting} does not list", text.at(2))
        return True
    if reference is not None and all(one.get(2).upper() in ("RP", "ST") for one in others):
        reading.trouble(NOT_FETCHED, reference.at(5))
        return True
    return False


def _says_report(obr: Segment | None, obx: Segment) -> bool:
    coded = (*(codings(obr, 4) if obr else ()), *codings(obx, 3))
    return (
        any(code in REPORT_LOINC for code, _, _ in coded)
        or obx.get(3, 1, 2).upper() in REPORT_SUFFIX
        or (obr is not None and obr.get(24).upper() in REPORT_SECTIONS)
        or any(is_document(one.content) for one in pieces_of(obx, ()))
    )
