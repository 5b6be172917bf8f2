import io
from base64 import b64decode, b64encode

import pytest
from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from connectors.documents import Documents
from connectors.hl7.handling import Outcome
from connectors.hl7.settings import Hl7Peer, Peer
from processors.events import DeadLetterEvent, NoteEvent
from processors.vectors import owners
from tests.hl7_messages import NOW, PID, PULSE, PV1, mapper, message, obx, reader, vitals

LOINC = "http://loinc.org"


def notes(outcome: Outcome) -> list[NoteEvent]:
    return [event for event in outcome.events if isinstance(event, NoteEvent)]


def letters(outcome: Outcome) -> list[DeadLetterEvent]:
    return [event for event in outcome.events if isinstance(event, DeadLetterEvent)]


def txa(
    number: str = "DOC1^EPIC", parent: str = "", completion: str = "LA", kind: str = "DS", authored: str = "20260302090000+0000"
) -> str:
    return f"TXA|1|{kind}|TX|20260302093000+0000||{authored}||||||{number}|{parent}||||{completion}"


def line(value: str, n: int = 1, kind: str = "TX", code: str = "18842-5^Discharge summary^LN", status: str = "F") -> str:
    return f"OBX|{n}|{kind}|{code}||{value}||||||{status}"


def mdm(trigger: str, *segments: str, **header: str) -> bytes:
    return message("EVN|" + trigger, PID, PV1, *segments, kind=f"MDM^{trigger}^MDM_T02", **header)


def note(raw: bytes, **peer: object) -> NoteEvent:
    outcome = reader(**peer)(raw)
    (event,) = notes(outcome)
    assert outcome.verdict == "accepted"
    return event


def test_a_document() -> None:
    event = note(mdm("T02", txa(), line("First line\\.br\\second~third"), line("fourth", 2)))
    assert event.text == "First line\nsecond\nthird\nfourth"
    assert (event.status, event.relation, event.replaces) == ("final", "original", None)
    assert (event.note_type.system, event.note_type.code, event.note_type.display) == (LOINC, "18842-5", "Discharge summary")
    assert event.authored_at.isoformat() == "2026-03-02T09:00:00+00:00"
    assert event.encounter_id
    assert "DOC1" not in event.model_dump_json()


@pytest.mark.parametrize(
    ("trigger", "relation"),
    [("T02", "original"), ("T04", "original"), ("T06", "addendum"), ("T08", "edit"), ("T10", "replacement")],
)
def test_versions_of_a_document(trigger: str, relation: str) -> None:
    original = note(mdm("T02", txa("D1"), line("text")))
    later = note(
        mdm(trigger, txa("D2" if trigger in ("T06", "T10") else "D1", "D1" if trigger in ("T06", "T10") else ""), line("more"))
    )
    assert later.relation == relation
    if trigger in ("T06", "T10"):
        assert later.replaces == original.note_id
        assert later.note_id != original.note_id
    else:
        assert later.note_id == original.note_id
        assert later.replaces is None
    assert later.id != original.id


def test_cancel() -> None:
    original, gone = note(mdm("T02", txa(), line("text"))), note(mdm("T11", txa(completion="AU")))
    assert (gone.note_id, gone.status, gone.relation, gone.text) == (original.note_id, "cancelled", "cancel", "")


@pytest.mark.parametrize(("trigger", "relation"), [("T08", "edit"), ("T11", "cancel")])
def test_an_addendum_that_is_edited_or_cancelled_leaves_the_document_that_it_adds_to(trigger: str, relation: str) -> None:
    added = note(mdm("T06", txa("D2", "D1"), line("more")))
    later = note(mdm(trigger, txa("D2", "D1"), line("better")))
    assert (later.note_id, later.relation, later.replaces) == (added.note_id, relation, None)


@pytest.mark.parametrize("trigger", ["T02", "T04", "T08"])
@pytest.mark.parametrize("letter", ["D", "W"])
def test_a_document_whose_parts_are_deleted_or_wrong_is_withdrawn(trigger: str, letter: str) -> None:
    original = note(mdm("T02", txa(), line("Of somebody else.")))
    gone = note(mdm(trigger, txa(), line("Of somebody else.", status=letter), line("", 2, status=letter), "NTE|1||A comment."))
    assert (gone.note_id, gone.status, gone.text) == (original.note_id, "entered-in-error", "")


@pytest.mark.parametrize("letter", "CAB")
def test_a_document_that_is_corrected_to_null_is_withdrawn(letter: str) -> None:
    original = note(mdm("T02", txa(), line("Of somebody else.")))
    gone = note(mdm("T08", txa(), line('""', status=letter)))
    assert (gone.note_id, gone.status, gone.text) == (original.note_id, "entered-in-error", "")
    reported = note(report(line("Of somebody else.")))
    gone = note(report(line('""', status=letter)))
    assert (gone.note_id, gone.status, gone.text) == (reported.note_id, "entered-in-error", "")


def test_a_replacement_that_is_wrong_still_takes_the_place_of_the_original() -> None:
    original = note(mdm("T02", txa("D1"), line("text")))
    gone = note(mdm("T10", txa("D2", "D1"), line("Of somebody else.", status="W")))
    assert (gone.relation, gone.replaces, gone.status, gone.text) == ("replacement", original.note_id, "entered-in-error", "")


@pytest.mark.parametrize("lines", [(), (line("", status="X"),), (line("text"),)])
def test_a_document_that_is_deleted_by_its_availability_is_withdrawn(lines: tuple[str, ...]) -> None:
    original = note(mdm("T02", txa(), line("text")))
    gone = note(mdm("T04", txa(completion="AU||CA"), *lines))
    assert (gone.note_id, gone.status) == (original.note_id, "cancelled")


@pytest.mark.parametrize(
    ("trigger", "status", "place"),
    [("T10", "F", "TXA-13"), ("T10", "C", "TXA-13"), ("T08", "F", "TXA-12"), ("T02", "C", "TXA-12"), ("T04", "X", "TXA-12")],
)
def test_a_new_version_that_does_not_name_its_document_is_kept_and_told(trigger: str, status: str, place: str) -> None:
    raw = mdm(trigger, txa(number=""), line("Better.", status=status))
    outcome = reader()(raw)
    (event,), (letter,) = notes(outcome), letters(outcome)
    assert (event.text, event.replaces, outcome.verdict, outcome.code) == ("Better.", None, "accepted", "AA")
    assert letter.message == f"{place}: a new version that does not name its document: the old one stays"
    assert (letter.stage, b64decode(letter.original_value)) == ("map", raw)
    ((_, answer),) = outcome.answers
    assert f"ERR||TXA^1^{place[4:]}^1|101" in answer.decode()


@pytest.mark.parametrize(("trigger", "status"), [("T10", "F"), ("T10", "W"), ("T08", "F"), ("T02", "C"), ("T06", "F")])
def test_a_document_without_its_own_number(trigger: str, status: str) -> None:
    original = note(mdm("T02", txa("D1"), line("text")))
    outcome = reader()(mdm(trigger, txa(number="", parent="D1"), line("more", status=status)))
    (event,) = notes(outcome)
    assert (event.replaces, letters(outcome)) == (original.note_id, [])
    assert "later versions of it will not be recognised" in outcome.reason


def test_a_document_that_cannot_be_obtained_is_cancelled() -> None:
    assert note(mdm("T08", txa(), line("", status="X"))).status == "cancelled"


def test_a_part_of_a_document_that_was_wrong_is_left_out() -> None:
    event = note(mdm("T08", txa(), line("Stable."), line("Of somebody else.", 2, status="W")))
    assert (event.text, event.status) == ("Stable.", "final")


@pytest.mark.parametrize("segments", [(line("", status="D"),), ()])
def test_a_withdrawal_without_number_is_kept(segments: tuple[str, ...]) -> None:
    outcome = reader()(mdm("T08", txa(number="", completion="AU||CA"), *segments))
    assert (outcome.verdict, notes(outcome)) == ("dead-letter", [])
    assert outcome.reason == "TXA-12: a cancelled document without its number"


def test_cancel_without_number_is_kept() -> None:
    outcome = reader()(mdm("T11", txa(number="")))
    assert (outcome.verdict, notes(outcome)) == ("dead-letter", [])


@pytest.mark.parametrize(
    ("letters", "status"),
    [("AU", "final"), ("LA", "final"), ("", "final"), ("IP", "preliminary"), ("PA", "preliminary"), ("DI", "preliminary")],
)
def test_completion_status(letters: str, status: str) -> None:
    assert note(mdm("T02", txa(completion=letters), line("x"))).status == status


@pytest.mark.parametrize(
    ("trigger", "completion", "letter", "status", "relation"),
    [
        ("T02", "LA", "C", "corrected", "edit"),
        ("T04", "AU", "C", "corrected", "edit"),
        ("T06", "LA", "C", "corrected", "addendum"),
        ("T10", "LA", "C", "corrected", "replacement"),
        ("T02", "IP", "C", "preliminary", "edit"),
        ("T02", "LA", "P", "preliminary", "original"),
        ("T02", "LA", "B", "amended", "edit"),
    ],
)
def test_a_document_stands_as_its_parts_do(trigger: str, completion: str, letter: str, status: str, relation: str) -> None:
    event = note(mdm(trigger, txa("D2", "D1", completion), line("x", status=letter)))
    assert (event.status, event.relation) == (status, relation)


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        ("PR", "", (LOINC, "11506-3")),
        ("34117-2^H and P^LN", "", (LOINC, "34117-2")),
        ("ZZ^Ours^L", "", ("", "ZZ")),
        ("", "", ("", "unknown")),
        ("ZZ^Ours^L", "11504-8^Op note^LN", (LOINC, "11504-8")),
    ],
)  # fmt: skip
def test_document_types(kind: str, code: str, expected: tuple[str, str]) -> None:
    event = note(mdm("T02", txa(kind=kind), line("x", code=code)))
    assert (event.note_type.system, event.note_type.code) == expected


@pytest.mark.parametrize("trigger", ["T01", "T03", "T05", "T07", "T09"])
def test_notices_without_text_are_ignored(trigger: str) -> None:
    outcome = reader()(mdm(trigger, txa()))
    assert (outcome.verdict, outcome.code, outcome.reason) == ("ignored", "AA", "1 x a notice without the document's text")
    assert reader()(mdm(trigger, txa(), line("file://x^^PDF", kind="RP"), line("", 2))).verdict == "ignored"


@pytest.mark.parametrize("trigger", ["T01", "T03", "T05", "T07", "T09"])
def test_a_notice_that_carries_the_text_is_the_event_that_does(trigger: str) -> None:
    event_with = f"T{int(trigger[1:]) + 1:02}"
    with_text, meant = (reader()(mdm(one, txa(parent="DOC0^EPIC"), line("septic shock"))) for one in (trigger, event_with))
    (found,), (expected,) = notes(with_text), notes(meant)
    assert (found.text, found.relation, found.note_id, found.replaces) == (
        *("septic shock", expected.relation),
        *(expected.note_id, expected.replaces),
    )
    assert with_text.reason == "1 x a notice that carries the text: read as the event that does"


def test_a_document_without_text_is_kept() -> None:
    outcome = reader()(mdm("T02", txa(), "OBX|1|NM|x||5||||||F"))
    assert (outcome.verdict, outcome.code) == ("dead-letter", "AA")


def test_a_document_of_nobody_is_held_apart() -> None:
    outcome = reader()(message("PID|1", txa(), line("x"), kind="MDM^T02"))
    (letter,) = outcome.events
    assert isinstance(letter, DeadLetterEvent)
    assert letter.stage == "identify"
    assert (letter.peer, letter.message_type, letter.message) == ("bedside", "MDM^T02", "PID-3: nobody to file this under")


def test_a_reference_is_not_fetched() -> None:
    outcome = reader()(mdm("T02", txa(), line("file://x^^PDF", kind="RP")))
    assert (outcome.verdict, outcome.reason) == ("dead-letter", "OBX-5: a reference to a document elsewhere is not fetched")


def test_type_in_the_structure_alone() -> None:
    assert len(notes(reader()(message(PID, txa(), line("x"), kind="^MDM_T02")))) == 1


# ------------------------------------------------------------------------------------------------------------ ORU reports

OBR = "OBR|1|P7^CPOE|F8^RAD|36643-5^Chest X-ray^LN|||20260302080000+0000" + "|" * 15 + "20260302084500+0000" + "|||{status}"


def report(*lines: str, status: str = "F", obr: str = OBR) -> bytes:
    return vitals(*lines, obr=obr.format(status=status))


def test_a_report_over_many_observations() -> None:
    event = note(
        report(
            line("Lungs clear.", code="GDT^Findings^L"),
            line("", 2, code="GDT^Findings^L"),
            line("Heart normal.", 3, code="GDT^Findings^L"),
        )
    )
    assert event.text == "Lungs clear.\n\nHeart normal."
    assert (event.note_type.code, event.status, event.relation) == ("36643-5", "final", "original")
    assert event.authored_at.isoformat() == "2026-03-02T08:45:00+00:00"


def test_sections_get_their_headings() -> None:
    event = note(report(line("Clear.", code="F^FINDINGS^L"), line("Normal.", 2, "FT", code="I^IMPRESSION^L")))
    assert event.text == "FINDINGS:\nClear.\n\nIMPRESSION:\nNormal."


@pytest.mark.parametrize(
    ("order", "result", "status", "relation"),
    [
        ("F", "F", "final", "original"),
        ("C", "F", "corrected", "edit"),
        ("P", "F", "preliminary", "original"),
        ("", "C", "corrected", "edit"),
        ("", "P", "preliminary", "original"),
        ("X", "F", "cancelled", "original"),
        ("F", "W", "entered-in-error", "original"),
        ("X", "W", "entered-in-error", "original"),
        ("", "D", "entered-in-error", "original"),
        ("F", "X", "cancelled", "original"),
        ("C", "X", "cancelled", "edit"),
        ("F", "P", "preliminary", "original"),
        ("F", "I", "preliminary", "original"),
        ("F", "C", "corrected", "edit"),
        ("C", "C", "corrected", "edit"),
        ("C", "P", "preliminary", "edit"),
        ("P", "C", "preliminary", "edit"),
        ("M", "F", "preliminary", "edit"),
        ("N", "F", "preliminary", "original"),
        ("F", "A", "amended", "edit"),
        ("F", "U", "final", "original"),
        ("Y", "", "final", "original"),
    ],
)
def test_status_of_a_report(order: str, result: str, status: str, relation: str) -> None:
    event = note(report(line("Lungs clear.", status=result), status=order))
    assert (event.status, event.relation) == (status, relation)
    if status == "entered-in-error":
        assert event.text == ""


@pytest.mark.parametrize(
    ("letters", "status", "relation"),
    [
        ("XX", "cancelled", "original"),
        ("XW", "cancelled", "original"),
        ("FX", "final", "original"),
        ("FC", "corrected", "edit"),
        ("FP", "preliminary", "original"),
        ("CP", "preliminary", "edit"),
        ("CA", "corrected", "edit"),
        ("WC", "corrected", "edit"),
    ],
)
def test_parts_of_a_final_report_that_stand_differently(letters: str, status: str, relation: str) -> None:
    event = note(report(*(line("Clear.", n, status=letter) for n, letter in enumerate(letters, 1)), status="F"))
    assert (event.status, event.relation) == (status, relation)


def test_a_part_that_was_wrong_is_left_out() -> None:
    event = note(report(line("Lungs clear.", status="C"), line("Of somebody else.", 2, status="W"), status="C"))
    assert (event.text, event.status) == ("Lungs clear.", "corrected")


def test_versions_of_a_report_share_their_note_id() -> None:
    first, corrected = note(report(line("a"), status="P")), note(report(line("b"), status="C"))
    assert first.note_id == corrected.note_id
    other = note(report(line("a"), obr=OBR.replace("F8", "F9")))
    assert other.note_id != first.note_id


class Feed:
    """Messages that come one after the other, each remembered as the server does."""

    def __init__(self) -> None:
        self.mapper, self.peer = mapper(), Peer("ris", Hl7Peer())

    def __call__(self, raw: bytes, person: str = "4711") -> Outcome:
        outcome = self.mapper.handle(raw.replace(b"4711^", f"{person}^".encode()), self.peer, NOW)
        self.mapper.learn(outcome)
        return outcome

    def note(self, raw: bytes, person: str = "4711") -> NoteEvent:
        (event,) = notes(self(raw, person))
        return event

    def merge(self, prior: str, survivor: str) -> None:
        assert self(message("EVN|A40", PID, f"MRG|{prior}^^^HOSP^MR", kind="ADT^A40"), survivor).verdict == "accepted"


def knees(*sides: tuple[str, str, str]) -> bytes:
    """Reports of one service under one accession number: OBR-2, text, OBX-11 of each."""
    orders = (
        (
            f"OBR|{n}|{placer}|ACC1^RAD|73562^XR knee^CPT|||20260302080000+0000",
            line(text, code="73562&GDT^XR knee", status=letter),
        )
        for n, (placer, text, letter) in enumerate(sides, 1)
    )
    return message(PID, PV1, *(segment for order in orders for segment in order))


LEFT, RIGHT = ("P1", "Left: fracture of the patella.", "F"), ("P2", "Right: normal.", "F")


@pytest.mark.parametrize("placers", [("P1", "P2"), ("P7", "P7"), ("", "")])
def test_reports_of_one_message_under_one_number_are_documents_of_their_own(placers: tuple[str, str]) -> None:
    feed, (one, other) = Feed(), placers
    raw = knees((one, LEFT[1], "F"), (other, RIGHT[1], "F"))
    outcome = feed(raw)
    left, right = notes(outcome)
    assert left.note_id != right.note_id
    assert [(one.text, one.relation) for one in (left, right)] == [(LEFT[1], "original"), (RIGHT[1], "original")]
    assert "another report under the number of one in the same message" in outcome.reason
    for again in (feed, Feed()):  # remembered, and after a restart
        assert [one.note_id for one in notes(again(raw))] == [left.note_id, right.note_id]
        corrected = notes(again(knees((one, LEFT[1], "F"), (other, "Right: effusion.", "C"))))
        assert [one.note_id for one in corrected] == [left.note_id, right.note_id]
    first = feed.note(knees((one, "Left: old fracture.", "C")))
    assert (first.note_id, first.relation) == (left.note_id, "edit")


def test_one_of_several_reports_under_one_number_is_corrected_alone_by_its_placers_number() -> None:
    feed = Feed()
    left, right = notes(feed(knees(LEFT, RIGHT)))
    alone = feed.note(knees(("P2", "Right: effusion.", "C")))
    assert (alone.note_id, alone.relation, alone.replaces) == (right.note_id, "edit", None)
    turned = notes(feed(knees(RIGHT, LEFT)))
    assert [one.note_id for one in turned] == [right.note_id, left.note_id]
    more = notes(feed(knees(LEFT, RIGHT, ("P3", "Both: lateral views.", "F"))))
    assert [one.note_id for one in more[:2]] == [left.note_id, right.note_id]
    assert more[2].note_id not in (left.note_id, right.note_id)


TWO = "a document's number that another patient's has too: two documents"
TAKEN = "a correction of a document that was another patient's: taken from there"
LATER = OBR.replace("20260302080000", "20260303080000")  # another examination's OBR-7


@pytest.mark.parametrize("number", ["F8^RAD", "1"])
def test_a_number_of_two_patients_is_two_reports(number: str) -> None:
    feed, obr = Feed(), OBR.replace("F8^RAD", number)
    stemi = feed.note(report(line("Anterior STEMI."), obr=obr))
    outcome = feed(report(line("Normal."), obr=obr), "9999")
    (normal,) = notes(outcome)
    assert (normal.relation, normal.replaces) == ("original", None)
    assert normal.note_id != stemi.note_id
    assert normal.patient_id != stemi.patient_id
    assert TWO in outcome.reason
    # Nor when neither is remembered; and each goes on having its own versions, whichever came last.
    assert note(report(line("Normal."), obr=obr).replace(b"4711^", b"9999^")).note_id == normal.note_id
    for first, person in ((stemi, "4711"), (normal, "9999")):
        later = feed.note(report(line("Corrected.", status="C"), status="C", obr=obr), person)
        assert (later.note_id, later.relation, later.replaces) == (first.note_id, "edit", None)
    for one in (mdm("T02", txa("D1"), line("text")), mdm("T04", txa("D1"), line("text"))):
        assert len({feed.note(one, person).note_id for person in ("4711", "9999")}) == 2


@pytest.mark.parametrize(
    ("order", "result", "status", "relation"),
    [
        ("C", "F", "corrected", "edit"),
        ("F", "C", "corrected", "edit"),
        ("F", "W", "entered-in-error", "cancel"),
        ("X", "F", "cancelled", "cancel"),
    ],
)
def test_a_report_that_is_corrected_under_another_patient_leaves_the_wrong_one(
    order: str, result: str, status: str, relation: str
) -> None:
    feed = Feed()
    wrong = feed.note(report(line("Subdural bleed.")))
    raw = report(line("Subdural bleed.", status=result), status=order)
    outcome = feed(raw, "9999")
    (right,) = notes(outcome)
    assert TAKEN in outcome.reason
    assert (right.status, right.relation, right.replaces) == (status, relation, wrong.note_id)
    assert owners(right, ())[wrong.note_id] == ()
    assert right.note_id != wrong.note_id
    # A resend, and further corrections, say the same; what comes under the first patient by then is a report of its own.
    assert feed.note(raw, "9999") == right
    again = feed.note(report(line("Once more.")))
    assert (again.note_id, again.relation) == (wrong.note_id, "original")
    assert feed.note(raw, "9999").replaces is None


@pytest.mark.parametrize("trigger", ["T08", "T10", "T11"])
def test_a_document_that_is_changed_under_another_patient_leaves_the_wrong_one(trigger: str) -> None:
    feed = Feed()
    wrong = feed.note(mdm("T02", txa("D1"), line("text")))
    right = feed.note(
        mdm(trigger, txa("D2" if trigger == "T10" else "D1", "D1" if trigger == "T10" else ""), line("text")), "9999"
    )
    assert (right.relation, right.replaces) == ({"T08": "edit", "T10": "replacement", "T11": "cancel"}[trigger], wrong.note_id)
    assert right.note_id != wrong.note_id


def test_what_is_added_under_another_patient_is_added_to_nothing_of_the_first() -> None:
    feed = Feed()
    first = feed.note(mdm("T02", txa("D1"), line("text")))
    added = feed.note(mdm("T06", txa("D2", "D1"), line("more")), "9999")
    assert added.replaces not in (None, first.note_id)


@pytest.mark.parametrize("parent", ["", "D1"])
def test_an_addendum_under_its_documents_number_adds_and_replaces_nothing(parent: str) -> None:
    feed = Feed()
    bleed = feed.note(mdm("T02", txa("D1"), line("Large subdural haematoma.")))
    raw = mdm("T06", txa("D1", parent), line("Dictated by Dr X."))
    outcome = feed(raw)
    (added,) = notes(outcome)
    assert (added.relation, added.replaces, added.text) == ("addendum", bleed.note_id, "Dictated by Dr X.")
    assert added.note_id != bleed.note_id
    assert set(owners(added, ())) == {added.note_id}
    assert "an addendum under the number of its document: a note of its own" in outcome.reason
    assert feed.note(raw) == added  # a resend is no further one
    further = feed.note(mdm("T06", txa("D1", parent), line("Dictated by Dr Y.")))
    assert (further.relation, further.replaces) == ("addendum", bleed.note_id)
    assert further.note_id not in (added.note_id, bleed.note_id)
    # The document's own versions are its own still, also where nothing of it is remembered.
    assert feed.note(mdm("T08", txa("D1"), line("Small subdural haematoma."))).note_id == bleed.note_id
    alone = Feed().note(raw)
    assert (alone.note_id, alone.replaces) == (added.note_id, bleed.note_id)


def test_further_addenda_under_one_number_are_notes_of_their_own() -> None:
    feed = Feed()
    bleed = feed.note(mdm("T02", txa("D1"), line("Large subdural haematoma.")))
    raws = [mdm("T06", txa("D2", "D1"), line(text)) for text in ("First.", "Second.", "Third.")]
    added = [feed.note(raw) for raw in raws]
    assert {(one.relation, one.replaces) for one in added} == {("addendum", bleed.note_id)}
    assert len({one.note_id for one in (bleed, *added)}) == 4
    edited = feed.note(mdm("T08", txa("D2", "D1"), line("First, read again.")))
    assert edited.note_id == added[0].note_id
    assert [feed.note(raw) for raw in raws] == added


def test_a_corrected_addendum_is_a_version_of_it() -> None:
    for numbers in (("D1", ""), ("D2", "D1")):
        feed = Feed()
        feed.note(mdm("T02", txa("D1"), line("Large subdural haematoma.")))
        raw = mdm("T06", txa(*numbers), line("Seen by Dr X."))
        added = feed.note(raw)
        better = feed.note(mdm("T06", txa(*numbers), line("Seen by Dr Y.", status="C")))
        assert (better.note_id, better.status, better.replaces) == (added.note_id, "corrected", added.replaces)
        assert feed.note(raw) == added  # sent again it stays the older version


@pytest.mark.parametrize("trigger", ["T11", "T03", "T04", "T08"])
def test_what_withdraws_a_document_withdraws_what_was_added_under_its_number(trigger: str) -> None:
    feed = Feed()
    document = feed.note(mdm("T02", txa("D1"), line("Of somebody else.")))
    added = [feed.note(mdm("T06", txa("D1"), line(text))) for text in ("More.", "Yet more.")]
    apart = feed.note(mdm("T06", txa("D2", "D1"), line("Its own.")))
    lines = (line("Of somebody else.", status="W"),) if trigger == "T08" else ()
    gone = notes(feed(mdm(trigger, txa("D1", completion="AU||CA" if trigger in ("T03", "T04") else "AU"), *lines)))
    assert [one.note_id for one in gone] == [one.note_id for one in (document, *added)]
    assert {one.status for one in gone} == {"entered-in-error" if trigger == "T08" else "cancelled"}
    assert {one.text for one in gone} == {""}
    assert len({one.id for one in gone}) == 3
    assert apart.note_id not in [one.note_id for one in gone]


def test_an_addendum_that_was_wrong_leaves_its_document() -> None:
    feed = Feed()
    feed.note(mdm("T02", txa("D1"), line("Large subdural haematoma.")))
    wrong = mdm("T06", txa("D1"), line("Of somebody else.", status="W"))
    outcome = feed(wrong)
    assert (outcome.verdict, notes(outcome)) == ("dead-letter", [])
    assert "TXA-12: the withdrawal of an addendum that is not known" in outcome.reason
    added = feed.note(mdm("T06", txa("D1"), line("Of somebody else.")))
    gone = feed.note(wrong)
    assert (gone.note_id, gone.status, gone.text) == (added.note_id, "entered-in-error", "")


def test_a_notice_of_deletion_withdraws_the_document() -> None:
    feed = Feed()
    wrong = feed.note(mdm("T02", txa(), line("Wrong text.")))
    gone = feed.note(mdm("T03", txa(completion="AU||CA")))
    assert (gone.note_id, gone.status, gone.text) == (wrong.note_id, "cancelled", "")
    alone = note(mdm("T03", txa(completion="AU||CA")))  # after a restart, say
    assert (alone.note_id, alone.status) == (wrong.note_id, "cancelled")


@pytest.mark.parametrize("trigger", ["T03", "T04"])
def test_a_status_without_the_text_is_the_remembered_texts(trigger: str) -> None:
    feed = Feed()
    draft = feed.note(mdm("T02", txa(completion="DI"), line("Draft.")))
    added = feed.note(mdm("T06", txa("D2", "DOC1^EPIC", completion="DI"), line("More.")))
    raw = mdm(trigger, txa(completion="AU", kind="OP"))
    final = feed.note(raw)
    assert draft.status == "preliminary"
    assert final.id != draft.id
    assert (final.status, final.text, final.note_id, final.relation) == ("final", "Draft.", draft.note_id, "original")
    assert (final.note_type, final.authored_at) == (draft.note_type, draft.authored_at)
    assert feed.note(raw) == final  # sent again, since it was not confirmed
    signed = feed.note(mdm(trigger, txa("D2", completion="LA")))
    assert (signed.note_id, signed.relation, signed.replaces, signed.status) == (
        *(added.note_id, "addendum"),
        *(draft.note_id, "final"),
    )
    outcome = feed(mdm(trigger, txa(completion="LA")))
    assert (outcome.verdict, outcome.reason) == ("ignored", "1 x a status that the document has already")
    again = feed.note(mdm(trigger, txa(completion="DI")))
    assert (again.status, again.text) == ("preliminary", "Draft.")


def test_a_status_of_what_is_not_remembered_changes_nothing() -> None:
    draft = mdm("T02", txa(completion="DI"), line("Draft."))
    assert reader()(mdm("T03", txa(completion="AU"))).reason == "1 x a notice without the document's text"
    assert reader()(mdm("T04", txa(completion="AU"))).reason == "OBX-5: a document without text"
    for tell in (("9999", "P"), ("4711", "T")):  # another patient's, and test traffic's
        feed = Feed()
        feed.note(draft)
        raw = mdm("T03", txa(completion="AU"), processing=tell[1])
        assert notes(feed(raw, tell[0])) == []
    feed = Feed()
    feed.note(draft)
    feed.note(mdm("T11", txa()))
    assert notes(feed(mdm("T03", txa(completion="AU")))) == []  # nothing that could come back


def test_texts_are_remembered_up_to_a_limit() -> None:
    one, other = (note(mdm("T02", txa(number), line("x" * 60))) for number in ("D1", "D2"))
    kept = Documents(characters=100)
    kept.keep(one)
    kept.keep(one)
    assert kept.last(one.note_id, "production") == one
    assert kept.last(one.note_id, "training") is None
    kept.keep(other)
    assert (kept.last(one.note_id, "production"), kept.last(other.note_id, "production")) == (None, other)


def test_a_correction_takes_nothing_away_where_the_number_says_too_little() -> None:
    feed = Feed()
    feed.note(report(line("a")))
    outcome = feed(report(line("b", status="C"), obr=LATER), "9999")  # of another examination
    assert (notes(outcome)[0].replaces, TWO in outcome.reason) == (None, True)
    outcome = feed(report(line("c", status="C")), "1234")  # two patients have it by now
    assert (notes(outcome)[0].replaces, TWO in outcome.reason) == (None, True)
    feed = Feed()
    feed.note(report(line("a")))
    assert feed.note(report(line("b", status="C")).replace(b"|MON|", b"|OTHER|"), "9999").replaces is None  # another sender's


def test_test_traffic_takes_nothing_away() -> None:
    feed = Feed()
    feed.note(report(line("a")))
    assert feed.note(report(line("b", status="C")).replace(b"|P|", b"|T|"), "9999").replaces is None


def test_versions_of_a_report_over_a_merge() -> None:
    feed = Feed()
    first = feed.note(report(line("a"), status="P"), "T99")
    feed.merge("T99", "4711")
    for person in ("4711", "T99"):
        later = feed.note(report(line("b")), person)
        assert (later.note_id, later.relation, later.replaces) == (first.note_id, "original", None)
        assert later.patient_id != first.patient_id


def test_report_without_numbers_has_an_id_of_its_own() -> None:
    outcome = reader()(report(line("a"), obr="OBR|1"))
    assert len(notes(outcome)) == 1
    assert "without order number" in outcome.reason


def test_comments_are_part_of_the_report() -> None:
    event = note(report(line("Clear."), "NTE|1||Compared with last year.~No change."))
    assert event.text == "Clear.\nCompared with last year.\nNo change."


def test_comment_on_a_vital_sign_is_a_note() -> None:
    outcome = reader()(vitals(PULSE, "NTE|1||Patient restless."))
    assert [type(event).__name__ for event in outcome.events] == ["PatientEvent", "VitalsEvent", "NoteEvent"]
    assert notes(outcome)[0].text == "Patient restless."


def test_short_coded_results_are_no_report_unless_the_peer_says_so() -> None:
    raw = report(obx("CULT^Culture^L", "No growth", kind="ST"))
    assert reader()(raw).verdict == "ignored"
    assert note(raw, text_types=["TX", "ST"]).text == "No growth"


def test_vitals_and_text_in_one_order() -> None:
    outcome = reader()(report(PULSE, line("Walked to ward.", 2)))
    assert [type(event).__name__ for event in outcome.events] == ["PatientEvent", "VitalsEvent", "NoteEvent"]


RADIOLOGY = OBR.replace("|||{status}", "||RAD|{status}")
ELSEWHERE = "OBX-5: a reference to a document elsewhere is not fetched"
IN_ST = "OBX-2: a report in ST, which connectors.mllp.peers.bedside.text_types does not list"


def st(code: str = "GDT^Findings^L", value: str = "Lungs clear.", status: str = "F") -> str:
    return line(value, kind="ST", code=code, status=status)


RP = line("http://pacs/1^^image^jpeg", kind="RP", code="59776^Chest^L")


@pytest.mark.parametrize(
    ("lines", "obr", "reason"),
    [
        ((RP,), OBR, ELSEWHERE),
        ((RP, st("CULT^Culture^L")), OBR, ELSEWHERE),
        ((st("71020&GDT^Chest^C4"),), OBR, IN_ST),
        ((st("71020&IMP^Chest^C4"), RP), OBR, IN_ST),
        ((st("18842-5^Discharge summary^LN"),), OBR, IN_ST),
        ((st(),), RADIOLOGY, IN_ST),
        ((st(),), OBR.replace("36643-5^Chest X-ray^LN", "18748-4^Imaging^LN"), IN_ST),
        ((st(value="JVBERi0xLjQK"),), OBR, IN_ST),
    ],
)
def test_a_report_whose_text_cannot_be_had_is_kept_with_the_reason(lines: tuple[str, ...], obr: str, reason: str) -> None:
    outcome = reader()(report(*lines, obr=obr))
    assert (outcome.verdict, outcome.code, outcome.reason) == ("dead-letter", "AA", reason)


@pytest.mark.parametrize(
    ("lines", "obr"),
    [
        ((st("CULT^Culture^L"),), OBR),
        ((obx("2345-7^Glucose^LN", "5"), RP), OBR),  # a laboratory's values, and their sheet of paper
        ((st(value=""),), RADIOLOGY),
        ((st(status="X"),), RADIOLOGY),
    ],
)
def test_what_is_no_report_is_counted(lines: tuple[str, ...], obr: str) -> None:
    outcome = reader()(report(*lines, obr=obr))
    assert (outcome.verdict, outcome.code) == ("ignored", "AA")
    assert outcome.reason.startswith(f"{len(lines)} x observations that are neither")


def test_a_reference_beside_text_or_vital_signs_is_counted() -> None:
    # The first is what PID says of the patient.
    assert [type(one).__name__ for one in reader()(report(line("Clear."), RP)).events] == ["PatientEvent", "NoteEvent"]
    assert [type(one).__name__ for one in reader()(report(PULSE, RP)).events] == ["PatientEvent", "VitalsEvent"]


# --------------------------------------------------------------------------------------------------------- embedded data


def embedded(data: bytes, kind: str = "TEXT", subtype: str = "PLAIN", encoding: str = "Base64", content: str = "") -> bytes:
    return mdm("T02", txa(), line(f"^{kind}^{subtype}^{encoding}^{content or b64encode(data).decode()}", kind="ED"))


HTML = b"""<html><head><title>x</title></head><body><p>One &amp; two</p><p>three</p><script>no()</script></body></html>"""
CDA = b"""<?xml version='1.0'?><ClinicalDocument><text><paragraph>Chest pain</paragraph></text></ClinicalDocument>"""


def pdf(text: str) -> bytes:
    writer = PdfWriter()
    page = writer.add_blank_page(300, 300)
    stream = StreamObject()
    stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
    page[NameObject("/Contents")] = writer._add_object(stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (embedded("Müller: no change\r\nstable".encode()), "Müller: no change\nstable"),
        (embedded("Müller".encode("cp1252")), "Müller"),
        (embedded(b"", encoding="A", content="plain words"), "plain words"),
        (embedded(b"", encoding="Hex", content="48656c6c6f"), "Hello"),
        (embedded(HTML, "text", "html"), "One & two\nthree"),
        (embedded(CDA, "text", "x-hl7-cda-level-one"), "Chest pain"),
        (embedded(rb"{\rtf1\ansi Stable \b today\b0.\par Home.}", "application", "rtf"), "Stable today.\nHome."),
        (embedded(rb"{\rtf1\ansi Undeclared.}", "application", "octet-stream"), "Undeclared."),
        (embedded(pdf("No acute findings"), "application", "pdf"), "No acute findings"),
        (embedded(pdf("Undeclared pdf"), "", ""), "Undeclared pdf"),
    ],
    ids=["utf-8", "cp1252", "plain", "hex", "html", "cda", "rtf", "rtf undeclared", "pdf", "pdf undeclared"],
)  # fmt: skip
def test_text_of_embedded_data(raw: bytes, text: str) -> None:
    assert note(raw).text == text


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (embedded(b"", content="!!notbase64"), "embedded data is not base64"),
        (embedded(b"", encoding="Hex", content="xyz"), "embedded data is not hex"),
        (embedded(b"x", encoding="uuencode"), "embedded data in an unknown encoding"),
        (embedded(bytes(range(256)) * 4, "image", "jpeg"), "embedded data is not text"),
        (embedded(b"%PDF-1.4 broken", "application", "pdf"), "embedded PDF that cannot be read"),
        (embedded(pdf(""), "application", "pdf"), "embedded data without text"),
        (embedded(b" \n "), "embedded data without text"),
        (mdm("T02", txa(), line("^TEXT^PLAIN^Base64^", kind="ED")), "embedded data is empty"),
    ],
)  # fmt: skip
def test_embedded_data_without_usable_text_is_kept_with_the_reason(raw: bytes, reason: str) -> None:
    outcome = reader()(raw)
    assert (outcome.verdict, outcome.code, outcome.reason) == ("dead-letter", "AA", f"OBX-5: {reason}")


# ---------------------------------------------------------------------------------------------------- documents in pieces

REPORT = "Müller: no acute findings. Dose 37.5 mg, stable since last year, to be seen again in a week".encode()
RTF = rb"{\rtf1\ansi Stable \b today\b0.\par Home.}"


def cut(data: bytes, at: int, encoding: str = "Base64") -> list[str]:
    encoded = b64encode(data).decode() if encoding == "Base64" else data.hex()
    return [encoded[:at], encoded[at:]]


def pieces(*contents: str, kind: str = "TEXT^PLAIN^Base64", sub: str = "1", status: str = "F") -> bytes:
    heads = [content if content.startswith("^") else f"^{kind}^{content}" for content in contents]
    return mdm("T02", txa(), *(f"OBX|{n}|ED|11^x^L|{sub}|{one}||||||{status}" for n, one in enumerate(heads, 1)))


@pytest.mark.parametrize("at", range(1, 80))
def test_a_text_in_two_pieces_is_joined_before_it_is_decoded_wherever_it_was_cut(at: int) -> None:
    found = note(pieces(*cut(REPORT, at))).text
    if at == 36:  # behind a full stop a line break does no harm, and two texts that were glued together would
        assert found.split() == REPORT.decode().split()
    else:
        assert found == REPORT.decode()


@pytest.mark.parametrize(("data", "at"), [(REPORT, 5), (REPORT, 6), (REPORT, 79), ("abé: stable".encode(), 4)])
def test_a_text_cut_inside_a_unit_or_a_character_is_joined_without_a_number_too(data: bytes, at: int) -> None:
    assert note(pieces(*cut(data, at), sub="")).text == data.decode()


@pytest.mark.parametrize("sub", ["", "1"])
@pytest.mark.parametrize("size", [3, 4, 150])
@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (pdf("No acute findings"), "application^pdf", "No acute findings"),
        (pdf("No acute findings"), "application^octet-stream", "No acute findings"),
        (RTF, "application^rtf", "Stable today.\nHome."),
        (HTML, "text^html", "One & two\nthree"),
        (CDA, "text^x-hl7-cda-level-one", "Chest pain"),
    ],
    ids=["pdf", "octets", "rtf", "html", "cda"],
)  # fmt: skip
def test_a_document_that_shows_where_it_begins_is_joined_from_any_number_of_pieces(
    data: bytes, kind: str, text: str, size: int, sub: str
) -> None:
    encoded = b64encode(data).decode()
    first = max(size, 24)  # as much as shows the beginning
    contents = [encoded[:first], *(encoded[n : n + size] for n in range(first, len(encoded), size))]
    assert note(pieces(*contents, kind=f"{kind}^Base64", sub=sub)).text == text


@pytest.mark.parametrize("sub", ["", "1"])
@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (pdf("No acute findings"), "application^pdf", "No acute findings"),
        (RTF, "application^rtf", "Stable today.\nHome."),
        (HTML, "text^html", "One & two\nthree"),
        (CDA, "text^x-hl7-cda-level-one", "Chest pain"),
        (b"Stable, now.", "text^plain", "Stable, now."),
        (b"Stable, so\r\n", "text^plain", "Stable, so"),
        (b"It was padded", "text^plain", "It was padded"),
    ],
)  # fmt: skip
def test_two_complete_documents_stay_two(data: bytes, kind: str, text: str, sub: str) -> None:
    whole = b64encode(data).decode()
    assert note(pieces(whole, whole, kind=f"{kind}^Base64", sub=sub)).text == f"{text}\n{text}"


def test_two_whole_texts_without_a_number_stay_two() -> None:
    assert note(pieces(*(b64encode(one).decode() for one in (b"stable", b"well")), sub="")).text == "stable\nwell"


PDF = b64encode(pdf("No acute findings")).decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (f"TEXT^plain^Base64^{b64encode(REPORT).decode()}", REPORT.decode()),
        (f"application^pdf^Base64^{PDF}", "No acute findings"),
        ("TEXT^plain^A^plain words", "plain words"),
        (f"APP^application^pdf^Base64^{PDF}", "No acute findings"),
        (PDF, "No acute findings"),
        (f"^application^pdf^^{PDF}", "No acute findings"),
    ],
    ids=["text", "pdf", "plain", "with the application", "bare", "no encoding"],
)
def test_embedded_data_as_senders_write_it(value: str, text: str) -> None:
    assert note(mdm("T02", txa(), line(value, kind="ED"))).text == text


def test_embedded_data_that_says_nothing_of_itself_is_kept_with_the_reason() -> None:
    outcome = reader()(mdm("T02", txa(), line("what is this", kind="ED")))
    assert outcome.reason == "OBX-5: embedded data that says neither its type nor its encoding"


@pytest.mark.parametrize("at", [40, 41, len(PDF) - 5])
@pytest.mark.parametrize("head", ["", "^application^pdf^Base64^"])
def test_a_document_over_repetitions_is_joined(head: str, at: int) -> None:
    value = f"^application^pdf^Base64^{PDF[:at]}~{head}{PDF[at:]}"
    assert note(mdm("T02", txa(), line(value, kind="ED"))).text == "No acute findings"


def test_repetitions_of_two_documents_stay_two() -> None:
    value = f"^application^pdf^Base64^{PDF}~^TEXT^PLAIN^A^One~^TEXT^PLAIN^A^Two"
    assert note(mdm("T02", txa(), line(value, kind="ED"))).text == "No acute findings\nOne\nTwo"


@pytest.mark.parametrize("kind", ["TX", "FT", "ST"])
@pytest.mark.parametrize("cuts", [(), (60,), (30, 61, 62, 700), (len(PDF) - 8,)])
@pytest.mark.parametrize("numbered", [True, False])
def test_text_that_is_a_pdf_in_base64_is_read_as_one(kind: str, cuts: tuple[int, ...], numbered: bool) -> None:
    parts = [PDF[a:b] for a, b in zip((0, *cuts), (*cuts, len(PDF)), strict=True)]
    lines = [f"OBX|{n}|{kind}|11^x^L|{n if numbered else ''}|{part}||||||F" for n, part in enumerate(parts, 1)]
    assert note(mdm("T02", txa(), line("Before."), *lines, line("NORMAL", 9, kind, code="11^x^L"))).text.split() == [
        *("Discharge", "summary:", "Before.", "x:", "No", "acute", "findings", "NORMAL"),
    ]


def test_text_that_is_rtf_in_base64_is_read_as_one_and_wrapped_base64_too() -> None:
    assert note(report(line(b64encode(RTF).decode()))).text == "Stable today.\nHome."
    wrapped = "~".join(PDF[n : n + 76] for n in range(0, len(PDF), 76))
    assert note(report(line(wrapped))).text == "No acute findings"


def test_text_that_is_a_broken_pdf_in_base64_is_kept_with_the_reason() -> None:
    outcome = reader()(report(line(b64encode(b"%PDF-1.4 broken").decode())))
    assert (outcome.verdict, outcome.reason) == ("dead-letter", "OBX-5: embedded PDF that cannot be read")


@pytest.mark.parametrize("value", ["NORMAL", "JVBERi0 is how base64 of a PDF begins", "e1xydG is that of RTF"])
def test_words_are_no_base64(value: str) -> None:
    assert note(report(line(value))).text == value


def test_two_documents_of_two_pieces_each() -> None:
    halves = cut(pdf("One"), 101) + cut(pdf("Two"), 202)
    assert note(pieces(*halves, kind="application^pdf^Base64")).text == "One\nTwo"


def test_hex_is_joined_too() -> None:
    assert note(pieces(*cut(REPORT, 31, "Hex"), kind="TEXT^PLAIN^Hex")).text == REPORT.decode()


def test_plain_content_is_never_joined() -> None:
    assert note(pieces("One", "Two", kind="TEXT^PLAIN^A")).text == "One\nTwo"


def test_a_piece_without_type_and_encoding_goes_on() -> None:
    first, second = cut(b"padded?", 8)
    assert note(pieces(first, f"^^^^{second}")).text == "padded?"


@pytest.mark.parametrize(
    "between", ["NTE|1||A comment.", line("A line.", 2), "OBX|2|ED|11^x^L|2|^TEXT^PLAIN^Base64^QQ==||||||F"]
)
def test_only_neighbours_are_pieces_of_one(between: str) -> None:
    first, second = (f"OBX|{n}|ED|11^x^L|1|^TEXT^PLAIN^Base64^{part}||||||F" for n, part in enumerate(cut(REPORT, 8), 1))
    lines = note(mdm("T02", txa(), first, between, second)).text.splitlines()
    assert len([one for one in lines if one and not one.endswith(":")]) == 3


def test_a_broken_piece_does_not_take_the_whole_ones_along() -> None:
    outcome = reader()(pieces(b64encode(b"stable").decode(), "!!notbase64"))
    assert notes(outcome)[0].text == "stable"
    assert outcome.reason == "OBX[2]-5: embedded data is not base64"


def test_pieces_that_were_wrong_are_withdrawn_and_those_in_a_report_are_joined() -> None:
    assert note(pieces(*cut(REPORT, 10), status="W")).status == "entered-in-error"
    lines = [f"OBX|{n}|ED|11^x^L|1|^TEXT^PLAIN^Base64^{part}||||||F" for n, part in enumerate(cut(REPORT, 9), 1)]
    assert note(report(*lines)).text == REPORT.decode()


# --------------------------------------------------------------------------------------------------- markup in text fields

LINES = r"{\rtf1\ansi{\fonttbl{\f0 Arial;}}|\f0 Has \b pneu|monia\b0 .\par |No fever.}"


@pytest.mark.parametrize("kind", ["TX", "FT"])
@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([LINES.replace("|", "")], "Has pneumonia.\nNo fever."),
        ([LINES.replace("|", "").replace("\\", "\\E\\")], "Has pneumonia.\nNo fever."),
        (LINES.split("|"), "Has pneumonia.\nNo fever."),
        ([*LINES.split("|"), "Signed {by} nobody"], "Has pneumonia.\nNo fever.\nSigned {by} nobody"),
        ([LINES.replace("|", "")] * 2, "Has pneumonia.\nNo fever.\nHas pneumonia.\nNo fever."),
        (["<html><body><p>Has", "pneumonia</p>", "</body></html>", "Hb <normal"], "Has\npneumonia\nHb <normal"),
        (["Seen:", "<p>Has pneumonia</p>", "Hb <normal"], "Seen:\nHas pneumonia\nHb <normal"),
        ([b64encode(CDA).decode()], "Chest pain"),
        (["Seen:", b64encode(CDA).decode()[:76], b64encode(CDA).decode()[76:]], "Seen:\nChest pain"),
        ([b64encode(REPORT).decode()], REPORT.decode()),
    ],
)
def test_a_document_in_text_fields_is_read_as_one(lines: list[str], text: str, kind: str) -> None:
    made = [line(one, n, kind) for n, one in enumerate(lines, 1)]
    assert note(mdm("T02", txa(), *made)).text == text


def test_a_document_in_text_fields_ends_where_another_place_begins() -> None:
    begun = line("<html><p>Has pneumonia</p>", code="F^FINDINGS^L")
    event = note(report(begun, line("None.", 2, code="I^IMPRESSION^L"), "NTE|1||<p>Read <b>twice</b></p>"))
    assert event.text == "FINDINGS:\nHas pneumonia\n\nIMPRESSION:\nNone.\nRead twice"


@pytest.mark.parametrize("value", [b64encode(bytes(range(256))).decode(), r"{\rtf1\ansi }"])
def test_what_is_no_text_in_a_text_field_is_kept_with_the_reason(value: str) -> None:
    outcome = reader()(mdm("T02", txa(), line(value)))
    assert (outcome.verdict, outcome.code) == ("dead-letter", "AA")
    assert outcome.reason.startswith("OBX-5: embedded data")


def test_a_cda_in_a_mime_package() -> None:
    head = 'MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary="edge"; type="text/xml"\r\n\r\n'
    part = f"--edge\r\nContent-Type: text/xml\r\nContent-Transfer-Encoding: BASE64\r\n\r\n{b64encode(CDA).decode()}\r\n--edge--\r\n"
    for kind in ("related", "x-hl7-cda-level-one"):
        assert note(embedded((head + part).encode(), "multipart", kind)).text == "Chest pain"
        plain = (head + part).replace("\r\n", r"\X0D0A" + "\\")
        assert note(embedded(b"", "multipart", kind, "A", plain)).text == "Chest pain"
    assert note(pieces(*cut((head + part).encode(), 76), kind="multipart^related^Base64", sub="")).text == "Chest pain"


@pytest.mark.parametrize("parts", [("In Error",), ("F", "Final"), ("D", "void")])
def test_a_status_in_words_makes_no_text_final(parts: tuple[str, ...]) -> None:
    lines = [line("sepsis", n, status=status) for n, status in enumerate(parts, 1)]
    for raw in (vitals(*lines), mdm("T02", txa(), *lines)):
        outcome = reader()(raw)
        assert [one.status for one in notes(outcome)] == ["preliminary"]
        assert [one.stage for one in letters(outcome)] == ["map"]


def test_a_senders_own_word_takes_its_report_back() -> None:
    for where in ("OBX-11", "OBR-25"):
        obr = "OBR|1||F9|VS^Vitals" + ("|" * 21 + "In Error" if where == "OBR-25" else "")
        report = line("sepsis", status="F" if where == "OBR-25" else "In Error")
        (told,) = notes(outcome := reader(statuses={"In Error": "D"})(vitals(report, obr=obr)))
        assert told.status == ("cancelled" if where == "OBR-25" else "entered-in-error")
        assert not letters(outcome)
        (told,) = notes(outcome := reader()(vitals(report, obr=obr)))
        assert told.status == "preliminary"
        assert f"{where}: a status that no table knows" in letters(outcome)[0].message


@pytest.mark.parametrize(
    ("segments", "where"),
    [(["DSC|PTR1|F"], "DSC"), (["ADD|pneumonia"], "ADD"), (["DSC||F"], "DSC"), ([], "MSH-14")],
)
@pytest.mark.parametrize("kind", ["ORU^R01", "MDM^T02"])
def test_a_piece_of_a_message_is_refused(segments: list[str], where: str, kind: str) -> None:
    raw = message(PID, "OBR|1||F9|XR", txa(), line("There is no evidence of"), *segments, kind=kind)
    if not segments:
        raw = raw.replace(b"|2.6|||", b"|2.6||PTR1|")
    outcome = reader()(raw)
    assert (outcome.verdict, outcome.code, outcome.events) == ("refused", "AE", ())
    assert outcome.reason == f"{where}: a piece of a message that was cut (DSC, ADD, MSH-14): to be sent whole"


def test_a_message_that_only_looks_cut_is_taken() -> None:
    assert reader()(mdm("T02", txa(), line("whole"), "DSC||")).verdict == "accepted"
    assert reader()(message("EVN|A28", PID, kind="ADT^A28").replace(b"|2.6|||", b"|2.6||7|")).verdict == "accepted"
    assert reader()(message("DSC|PTR1|I", kind="QBP^Q22")).verdict == "ignored"
