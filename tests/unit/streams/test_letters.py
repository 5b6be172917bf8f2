"""Failures and marks, read in the order of the topic, give a letter's state: what came last is what was tried last."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any, Literal

import pytest

from connectors.deadletters import dead_letter as at_the_edge
from models.errors import Permanent, Poison
from processors.events import DeadLetterEvent, DeadLetterMarkEvent
from streams.deadletters import dead_letter, redrive
from streams.letters import Letter, Which, choose, fold, reasons
from streams.wire import encode

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CLOSED: tuple[Literal["redriven", "discarded"], ...] = ("redriven", "discarded")


@dataclass(frozen=True)
class Record:
    value: bytes = b"{}"
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int = 1_700_000_000_123
    key: bytes = b"patient"
    topic: str = "clinical.notes"
    partition: int = 1
    offset: int = 41


@dataclass
class Written:
    """An event as it lies on the dead-letter topic."""

    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    partition: int
    offset: int
    topic: str = "clinical.dead-letters"


ORIGINAL = Record()


def copy_of(*letters: DeadLetterEvent, offset: int) -> Record:
    """What a redrive writes, as a lane reads it."""
    return replace(ORIGINAL, headers=tuple(redrive(*letters, topic="clinical.notes").headers), offset=offset)


def failed(record: Record, minute: int, *, lane: str = "echo", model: str = "a") -> DeadLetterEvent:
    at = NOON + timedelta(minutes=minute)
    return dead_letter(record, Poison("cannot", stage="model"), lane=lane, failed_at=at, model_digest=model)


def marked(letter: DeadLetterEvent, state: Literal["redriven", "discarded"] = "redriven") -> DeadLetterMarkEvent:
    """What the desk writes about a letter as it stands."""
    return DeadLetterMarkEvent(
        id="mark",
        letter_id=letter.id,
        state=state,
        attempts=letter.attempts,
        tried_offset=letter.tried_offset,
        failed_at=letter.failed_at,
        by="ops",
        marked_at=NOON - timedelta(days=1),  # the desk's clock is wrong, and nothing is to come of that
    )


def read(*events: DeadLetterEvent | DeadLetterMarkEvent, partitions: tuple[int, ...] = ()) -> dict[str, Letter]:
    letters: dict[str, Letter] = {}
    for offset, event in enumerate(events):
        message = encode(event, source="/test")
        partition = partitions[offset] if partitions else 0
        fold(letters, Written(message.value, tuple(message.headers), partition, offset))
    return letters


def one(*events: DeadLetterEvent | DeadLetterMarkEvent, **more: Any) -> Letter:
    (letter,) = read(*events, **more).values()
    return letter


FIRST = failed(ORIGINAL, 0)
BY_REPLAY = failed(
    replace(ORIGINAL, headers=copy_of(FIRST.model_copy(update={"id": "a replay's"}), offset=0).headers, offset=90), 9
)


@pytest.mark.parametrize("state", CLOSED)
def test_a_failure_after_a_replay_opens_the_letter_again_with_what_failed_now(state: Literal["redriven", "discarded"]) -> None:
    again = BY_REPLAY.model_copy(update={"model_digest": "b", "message": "another reason"})
    assert again.attempts == FIRST.attempts == 1  # a replay knows of no letter
    letter = one(FIRST, marked(FIRST, state), again)
    assert (letter.state, letter.by, letter.first_failed_at) == ("open", "", FIRST.failed_at)
    assert letter.event == again.model_copy(update={"attempts": 2, "original_value": None})
    assert one(FIRST, marked(FIRST, state), again, marked(letter.event)).state == "redriven"


@pytest.mark.parametrize("state", CLOSED)
def test_a_killed_lane_that_repeats_itself_opens_nothing(state: Literal["redriven", "discarded"]) -> None:
    repeated = failed(ORIGINAL, 7, model="b")
    letter = one(FIRST, marked(FIRST, state), repeated)
    assert (letter.state, letter.event.model_digest) == (state, "a")
    assert one(FIRST, repeated).event.model_digest == "b"  # while it is open the newest words are told
    again = failed(copy_of(FIRST, offset=90), 8)
    assert one(FIRST, again, marked(again), failed(copy_of(FIRST, offset=90), 9)).state == "redriven"


def test_a_late_mark_hides_no_failure_however_late() -> None:
    second = failed(copy_of(FIRST, offset=90), 1)
    third = failed(copy_of(second, offset=95), 2)
    late = marked(FIRST)
    for events in ((FIRST, second, late), (FIRST, second, third, late, marked(second)), (FIRST, second, late, third, late)):
        letter = one(*events)
        assert (letter.state, letter.event.attempts) == ("open", 3 if third in events else 2)
    assert one(FIRST, second, late, marked(second)).state == "redriven"


def test_attempts_never_fall_whichever_way_a_record_comes_again() -> None:
    many = FIRST.model_copy(update={"attempts": 6})
    vectors = failed(ORIGINAL, 0, lane="notes-vectors")
    by_the_other = failed(copy_of(vectors, offset=90), 1)
    assert by_the_other.attempts == 1
    assert one(many, by_the_other).event.attempts == 7
    assert one(many, BY_REPLAY, failed(BY_REPLAY_AGAIN, 10)).event.attempts == 8
    assert one(many, failed(copy_of(many, vectors, offset=90), 1)).event.attempts == 7
    # Two operators redrove it at once: both copies named the same attempts, and there were two.
    assert one(many, failed(copy_of(many, offset=90), 1), failed(copy_of(many, offset=91), 1)).event.attempts == 8


BY_REPLAY_AGAIN = copy_of(FIRST.model_copy(update={"id": "a replay's"}), offset=91)


def test_the_partitions_may_be_read_in_any_order() -> None:
    """The topic's partitions grew: a letter's first failure lies in another than its second, and each mark beside its own."""
    second = failed(copy_of(FIRST, offset=90), 1)
    blocks = [[FIRST, marked(FIRST)], [second, marked(second, "discarded")]]
    for order in permutations(range(2)):
        where = tuple(number for number in order for _ in blocks[number])
        letter = one(*(event for number in order for event in blocks[number]), partitions=where)
        assert (letter.state, letter.event.tried_offset) == ("discarded", 90)
        letter = one(*(event for number in order for event in blocks[number][: 2 - number]), partitions=where[:3])
        assert (letter.state, letter.event.tried_offset) == ("open", 90)


def test_another_original_at_the_same_place_is_a_letter_anew() -> None:
    """Its topic was made anew, and offsets begin at nothing again."""
    second = failed(copy_of(FIRST, offset=90), 1)
    other = failed(replace(ORIGINAL, timestamp=ORIGINAL.timestamp + 1), 5)
    letter = one(FIRST, second, marked(second), other)
    assert (letter.state, letter.event.attempts, letter.first_failed_at) == ("open", 1, other.failed_at)


def test_a_resend_to_a_connector_that_fails_again_opens_its_letter() -> None:
    def refused(minute: int) -> DeadLetterEvent:
        at = NOON + timedelta(minutes=minute)
        return at_the_edge(b"MSH|", connector="hl7", stage="map", message="no", failed_at=at)

    first, again = refused(0), refused(-3)  # the connector's clock was set back
    assert one(first, marked(first, "discarded")).state == "discarded"
    assert one(first, marked(first, "discarded"), again).state == "open"
    assert one(first, again, marked(first, "discarded")).state == "open"
    assert one(first, marked(first, "discarded"), first).state == "discarded"  # the same, confirmed only at the second try


def test_letters_and_marks_of_before_they_said_what_was_tried() -> None:
    def old(event: DeadLetterEvent, attempts: int) -> DeadLetterEvent:
        return event.model_copy(update={"attempts": attempts, "tried_offset": None})

    def old_mark(attempts: int) -> DeadLetterMarkEvent:
        return marked(FIRST).model_copy(update={"attempts": attempts, "tried_offset": None, "failed_at": None})

    first, second = old(FIRST, 1), old(failed(copy_of(FIRST, offset=90), 1), 2)
    assert one(first, old_mark(1)).state == "redriven"
    assert one(first, old_mark(1), first).state == "redriven"
    assert one(first, old_mark(1), second).state == "open"
    assert one(first, second, old_mark(1)).state == "open"
    assert one(first, old_mark(1), BY_REPLAY).state == "open"  # lanes of now, after marks of then
    assert one(first, BY_REPLAY, old_mark(1)).state == "open"
    assert one(FIRST, old_mark(1)).state == "redriven"
    assert one(second, marked(second)).state == "redriven"


@pytest.mark.parametrize("asked", ["ids", "lanes", "stages", "classes", "models"])
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_word_is_not_every_letter(asked: str, empty: str) -> None:
    with pytest.raises(Permanent, match=f"one of the {asked} is empty"):
        Which(**{asked: ("2f17", empty)})  # type: ignore[arg-type]  # any of the fields that take words


SEVERAL = read(
    FIRST, failed(replace(ORIGINAL, offset=42), 1, lane="vitals", model=""), failed(replace(ORIGINAL, offset=43), 2)
).values()


def test_an_id_that_no_letter_has_is_refused_with_every_such_id() -> None:
    with pytest.raises(Permanent, match="no dead letter begins with zzzz, yyyy"):
        choose(SEVERAL, Which(ids=(FIRST.id[:8], "zzzz", "yyyy")), ("open",))


def test_a_letter_of_another_state_is_found_by_its_id_and_told() -> None:
    letters = read(FIRST, failed(replace(ORIGINAL, offset=42), 1), marked(FIRST)).values()
    found = choose(letters, Which(ids=(FIRST.id[:8],)), ("open",))
    assert (found.letters, found.total) == ([], 0)
    assert [(one.event.id, one.state) for one in found.otherwise] == [(FIRST.id, "redriven")]
    assert choose(letters, Which(ids=(FIRST.id,)), ("redriven",)).otherwise == []


def test_a_filter_that_no_letter_answers_to_is_told_with_what_there_is() -> None:
    asked = Which(lanes=("echo", "ehco"), stages=("nosuch",), classes=("Poison", "Posion"), models=("a", "b"))
    assert choose(SEVERAL, asked, ("open",)).unknown == [
        "no dead letter of any state has the lane ehco; there are: echo, vitals",
        "no dead letter of any state has the stage nosuch; there are: model",
        "no dead letter of any state has the class Posion; there are: Poison",
        "no dead letter of any state has the model b; there are: a",
    ]
    assert choose((), Which(lanes=("echo",)), ("open",)).unknown == [
        "no dead letter of any state has the lane echo; there are: none"
    ]
    closed = read(FIRST, marked(FIRST)).values()
    assert choose(closed, Which(lanes=("echo",)), ("open",)).unknown == []  # right, and nothing is open


def test_what_a_limit_leaves_is_counted() -> None:
    found = choose(SEVERAL, Which(), ("open",), 2)
    assert ([one.event.original_offset for one in found.letters], found.total) == ([41, 42], 3)


def test_what_is_set_apart_takes_nothing_from_the_limit() -> None:
    found = choose(SEVERAL, Which(), ("open",), 1, lambda event: "first" if event.original_offset == 41 else "")
    assert ([one.event.original_offset for one in found.letters], found.total) == ([42], 2)
    assert [one.event.original_offset for one in found.apart["first"]] == [41]


def sent(message: str, **more: str) -> DeadLetterEvent:
    about = {"connector": "hl7", "stage": "map", "peer": "lab", "message_type": "ORU^R01"} | more
    return at_the_edge(b"MSH", message=message, failed_at=NOON, identity=(message, *more.values()), **about)


def test_reasons_are_counted_over_places_and_ids() -> None:
    letters = read(
        sent("OBX[2]-5: embedded data is empty"),
        sent("OBX[17]-5: embedded data is empty"),
        sent("OBX[17]-5: embedded data is empty", peer="ward"),
        sent("line 7: no JSON", connector="vitals", peer="a.jsonl", message_type=""),
        sent("line 12: no JSON", connector="vitals", peer="a.jsonl", message_type=""),
        sent("line 12: no time", connector="vitals", peer="a.jsonl", message_type=""),
    ).values()
    assert reasons(letters) == [
        ("connector.hl7", "lab", "ORU^R01", "OBX[n]-5: embedded data is empty", 2),
        ("connector.vitals", "a.jsonl", "", "line n: no JSON", 2),
        ("connector.hl7", "ward", "ORU^R01", "OBX[n]-5: embedded data is empty", 1),
        ("connector.vitals", "a.jsonl", "", "line n: no time", 1),
    ]
