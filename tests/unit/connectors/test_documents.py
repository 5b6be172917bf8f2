"""What was filed before a process began, read back from the notes alone: by number and patient, never by a guess."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.contexts import MemoryContexts
from connectors.documents import Former, note_of
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.settings import Hl7Peer, MllpSettings, Peer
from processors.events import NoteEvent, Origin, PatientEvent
from tests.clinic import note
from tests.edge import identities
from tests.hl7_messages import NOW, message
from tests.work import calls

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
SOURCE = ("adt", "production")


def filed(patient: str, number: str, **fields: Any) -> NoteEvent:
    return note(patient, number, "Text.").model_copy(
        update={"note_id": note_of(number, patient), "origin": Origin(protocol="hl7v2", peer="adt")} | fields
    )


def merged(old: str, new: str) -> PatientEvent:
    return PatientEvent(
        id=old, patient_id=old, merged_into=new, effective_at=AT, received_at=AT, origin=Origin(protocol="hl7v2", peer="adt")
    )


def found(former: Former, patient: str, number: str = "1", *, contexts: MemoryContexts | None = None, **more: Any) -> list[str]:
    source = more.pop("source", SOURCE)
    return [one.patient_id for one in former.of(source, number, contexts or MemoryContexts(), patient, **more)]


def test_a_note_is_found_for_its_patient_and_for_another_where_a_correction_asks() -> None:
    former = Former()
    former.take(filed("a", "1"))
    assert found(former, "a") == ["a"]
    assert found(former, "b") == []
    assert found(former, "b", anybody=True) == ["a"]
    assert found(former, "b", "2", anybody=True) == []
    former.take(filed("b", "1"))
    assert found(former, "b", anybody=True) == ["b"]
    assert found(former, "c", anybody=True) == ["a", "b"]


def test_test_traffic_and_other_senders_are_apart() -> None:
    former = Former()
    former.take(filed("a", "1", processing="training"))
    assert found(former, "b", anybody=True) == []
    assert found(former, "b", anybody=True, source=("adt", "training")) == ["a"]
    assert found(former, "a", source=("lab", "training")) == []


def test_a_note_of_a_record_that_was_merged_away_is_the_survivors_over_several_merges() -> None:
    former, contexts = Former(), MemoryContexts()
    former.take(filed("a", "1"))
    for old, new in (("a", "b"), ("b", "c"), ("c", "a")):  # a circle ends too
        contexts.remember(merged(old, new))
    assert found(former, "c", contexts=contexts) == ["a"]


def test_what_was_taken_from_a_patient_is_not_filed_there_any_more() -> None:
    former = Former()
    former.take(filed("a", "1"))
    former.take(filed("b", "1", relation="edit", replaces=note_of("1", "a")))
    assert found(former, "c", anybody=True) == ["b"]
    (one,) = former.of(SOURCE, "1", MemoryContexts(), "b")
    assert one.took == note_of("1", "a")


def test_the_oldest_are_forgotten() -> None:
    former = Former(2)
    for number in ("1", "2", "1", "3"):
        former.take(filed("a", number))
    assert len(former) == 2
    assert [found(former, "a", number) for number in ("1", "2", "3")] == [["a"], [], ["a"]]


def test_only_a_correction_looks_at_everybodys() -> None:
    former = Former()
    for n in range(2000):
        former.take(filed(f"p{n}", "1"))
    assert calls(lambda: found(former, "q")) < 100
    assert calls(lambda: found(former, "q", anybody=True)) > 2000


class Feed:
    """HL7 v2 documents to a mapper that was started anew after each."""

    def __init__(self) -> None:
        self.notes: list[NoteEvent] = []

    def take(
        self, trigger: str, patient: str, number: str = "D1", written: str = "202603020900", at: str = "202603020930"
    ) -> NoteEvent:
        former = Former()
        for one in self.notes:
            former.take(one)
        mapper = Hl7Mapper(MllpSettings(), identities(), None, former)
        raw = message(
            f"PID|1||{patient}^^^HOSP^MR||DOE^JANE||19500321|F",
            f"TXA|1|DS|TX|{at}||{written}||||||{number}^EPIC|||||LA",
            "OBX|1|TX|18842-5^Discharge summary^LN||Text.||||||F",
            kind=f"MDM^{trigger}",
            control_id=f"{trigger}{patient}{len(self.notes)}",
        )
        outcome = mapper.handle(raw, Peer("adt", Hl7Peer()), NOW + timedelta(seconds=len(self.notes)))
        (made,) = (event for event in outcome.events if isinstance(event, NoteEvent))
        self.notes.append(made)
        return made


@pytest.mark.parametrize("trigger", ["T08", "T10", "T11"])
def test_after_a_restart_a_correction_under_another_patient_takes_the_wrong_ones(trigger: str) -> None:
    feed = Feed()
    wrong = feed.take("T02", "1")
    right = feed.take(trigger, "2")
    assert (right.replaces, right.note_id == wrong.note_id) == (wrong.note_id, False)
    again = feed.take(trigger, "2")
    assert again.note_id == right.note_id


def test_after_a_restart_a_number_that_is_given_out_again_takes_nothing() -> None:
    feed = Feed()
    feed.take("T02", "1")
    assert feed.take("T02", "2").replaces is None  # corrects nothing
    assert feed.take("T08", "3").replaces is None  # two have it
    feed = Feed()
    feed.take("T02", "1")
    assert feed.take("T08", "2", written="202604010900", at="202604010930").replaces is None  # written at another time
    assert feed.take("T08", "2", number="D2").replaces is None


def test_after_a_restart_a_version_is_a_version_of_its_note() -> None:
    feed = Feed()
    first = feed.take("T02", "1")
    second = feed.take("T08", "1")
    assert (second.note_id, second.replaces) == (first.note_id, None)
