"""Events on the wire."""

from base64 import b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from math import isfinite
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Permanent, Poison
from processors.events import DeadLetterEvent, FeedbackEvent, HeartbeatEvent, NoteEvent, Observation, VitalsEvent, to_json
from processors.examples import EXAMPLES
from streams.deadletters import dead_letter
from streams.outbox import partition_of
from streams.wire import decode, encode, key_of, traceparent_of


@dataclass
class Record:
    value: bytes | None
    key: bytes | None = b"p"
    headers: tuple[tuple[str, bytes], ...] = ()
    topic: str = "clinical.notes"
    partition: int = 1
    offset: int = 7
    timestamp: int = 1_700_000_000_000
    extra: dict = field(default_factory=dict)


NOTE = next(event for event in EXAMPLES if isinstance(event, NoteEvent))
VITALS = next(event for event in EXAMPLES if isinstance(event, VitalsEvent))


def test_a_changed_meaning_is_not_read_as_the_old_one() -> None:
    message = encode(NOTE, source="/vigil/test")
    future = Record(message.value, headers=(("ce_type", b"org.vigil.note.v2"),))
    with pytest.raises(Poison, match="another type or version"):
        decode(NoteEvent, future)
    assert decode(NoteEvent, Record(message.value, headers=())) == NOTE  # a producer without CloudEvents is tolerated


ZONES = [UTC, timezone(timedelta(hours=-3, minutes=-30)), ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")]


@given(st.floats(), st.datetimes(min_value=datetime(1800, 1, 1)), st.sampled_from(ZONES), st.text())
def test_what_is_written_is_what_pydantic_writes(value: float, time: datetime, zone: tzinfo, text: str) -> None:
    event = VITALS.model_copy(
        update={"observed_at": time.replace(tzinfo=zone), "observations": (Observation(code=text, value=value),)}
    )
    assert to_json(event) == event.model_dump_json().encode()
    if isfinite(value):  # JSON has no other numbers
        read = VitalsEvent.model_validate_json(to_json(event))
        assert to_json(read) == read.model_dump_json().encode()


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.type)
def test_every_event_survives_the_wire_with_cloudevents_headers(event: object) -> None:
    message = encode(event, source="/vigil/test", traceparent=b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")
    headers = dict(message.headers)
    assert message.value == event.model_dump_json().encode()
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"].decode() == event.id
    assert headers["ce_type"].decode() == event.type
    assert headers["content-type"] == b"application/json"
    assert decode(type(event), Record(message.value)) == event


@given(st.binary(max_size=300))
def test_garbage_is_poison_whose_words_quote_nothing(data: bytes) -> None:
    with pytest.raises(Poison) as caught:
        decode(NoteEvent, Record(data))
    assert caught.value.stage == "decode"
    text = data.decode("utf-8", "ignore")
    assert len(text) < 8 or text not in str(caught.value)


def test_a_wrong_field_is_named_and_its_content_is_not() -> None:
    body = NOTE.model_dump_json().replace(NOTE.authored_at.isoformat().replace("+00:00", "Z"), "yesterday, says Mr. Smith")
    with pytest.raises(Poison, match="authored_at") as caught:
        decode(NoteEvent, Record(body.encode()))
    assert "Smith" not in str(caught.value)


def test_a_dead_letter_keeps_the_record_whole_and_its_key_is_the_original_one() -> None:
    record = Record(b"\x00\xff{", key=b"\xffkey", headers=(("a", b"\x01"), ("b", None)))
    letter = dead_letter(record, ValueError("Mr. Smith"), lane="x", failed_at=NOTE.received_at)
    assert isinstance(letter, DeadLetterEvent)
    assert b64decode(letter.original_value or "") == record.value
    assert key_of(letter) == record.key
    assert [(h.name, None if h.value is None else b64decode(h.value)) for h in letter.original_headers] == list(record.headers)
    assert "Smith" not in letter.model_dump_json()
    assert letter.id == dead_letter(record, Permanent("other"), lane="x", failed_at=NOTE.received_at).id


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", True),
        (b"00-" + b"0" * 32 + b"-" + b"b" * 16 + b"-01", False),
        (b"00-" + b"a" * 32 + b"-" + b"0" * 16 + b"-01", False),
        (b"junk", False),
    ],
)
def test_only_a_well_formed_traceparent_is_passed_on(value: bytes, valid: bool) -> None:
    assert (traceparent_of(Record(b"", headers=(("traceparent", value),))) == value) is valid


@pytest.mark.parametrize(
    # org.apache.kafka.common.utils.Utils.murmur2 of the Java client, from its own test (UtilsTest.testMurmur2)
    ("key", "murmur2"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_keys_go_where_the_java_client_sends_them(key: bytes, murmur2: int) -> None:
    assert partition_of(key, 1000) == (murmur2 & 0x7FFFFFFF) % 1000


@pytest.mark.parametrize("number", [0, 3, 11])
def test_a_heartbeat_lies_in_the_partition_that_it_speaks_for_and_an_answer_to_the_lane_goes_to_it(number: int) -> None:
    beat = next(event for event in EXAMPLES if isinstance(event, HeartbeatEvent)).model_copy(update={"partition": number})
    assert encode(beat, source="/vigil/test").partition == number
    answer = next(event for event in EXAMPLES if isinstance(event, FeedbackEvent))
    own = answer.model_copy(update={"patient_id": f"partition-{number}"})  # to an alert about a feed, or about the monitoring
    assert encode(own, source="/vigil/test").partition == number
    assert encode(answer, source="/vigil/test").partition is None  # by its key, as the patient's vitals
