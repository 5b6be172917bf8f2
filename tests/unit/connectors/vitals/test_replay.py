import gzip
from base64 import b64decode
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.vitals.acknowledgement import Bookmark
from connectors.vitals.server import FileReplay, replay
from connectors.vitals.settings import Column, FileMapping, ReplaySettings, packaged
from models.errors import Permanent, Transient
from processors.events import DeadLetterEvent, Identifier, PatientEvent, VitalsEvent
from tests.edge import RecordingPublisher, identities

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
IDS = identities()
WIDE = FileMapping(
    name="trial",
    patient="id",
    time="at",
    age="age",
    columns={
        "hr": Column(code="8867-4", unit="/min"),
        "o2": Column(code="3151-8", unit="L/min", values={"RA": 0}),
    },
)
RATE = WIDE.model_copy(update={"age": "", "columns": {"hr": WIDE.columns["hr"]}})
LONG = FileMapping(
    layout="long", patient="id", time="minute", time_in="minutes", parameter="what", value="value",
    columns={"HR": Column(code="8867-4", unit="/min"), "RR": Column(code="9279-1", unit="/min")},
)  # fmt: skip


class Clock:
    """Time that passes only by waiting."""

    def __init__(self):
        self.at = NOW
        self.waits = []

    def __call__(self):
        return self.at

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.at += timedelta(seconds=seconds)


def source(path, mapping=WIDE, clock=None, **changes):
    own = {name: changes.pop(name) for name in ("skip", "shift") if name in changes}
    clock = clock or Clock()
    return FileReplay(path, mapping, ReplaySettings(**changes), identities=IDS, now=clock, sleep=clock.sleep, **own)


async def played(path, mapping=WIDE, **changes):
    return [event async for _, event in source(path, mapping, **changes)]


CSV = """id,at,hr,o2,age
P1,2026-01-01T10:00:00Z,72,RA,70
P2,2026-01-01T09:00:00Z,80,2,
P1,2026-01-01T11:00:00+00:00,NA,,
"""


async def test_a_wide_table(tmp_path):
    (tmp_path / "ward.csv").write_text(CSV)
    events = await played(tmp_path / "ward.csv")
    assert [type(event) for event in events] == [VitalsEvent, PatientEvent, VitalsEvent]
    first, person, second = events
    assert first.observed_at == datetime(2026, 1, 1, 9, tzinfo=UTC)  # all patients at once, in order of time
    assert [(one.code, one.value, one.unit) for one in second.observations] == [
        ("8867-4", 72, "/min"),
        ("3151-8", 0, "L/min"),
    ]
    assert person.birth_date == "1956"
    assert second.patient_id == person.patient_id == IDS.patient(Identifier(authority="trial", value="P1"))
    assert second.processing == "training"
    assert "P1" not in second.model_dump_json()


async def test_formats_say_the_same(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "a.tsv").write_text("\ufeff" + CSV.replace(",", "\t"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV.replace("\n", "\r\n").encode()))
    lines = [dict(zip(CSV.split("\n")[0].split(","), row.split(","), strict=True)) for row in CSV.strip().split("\n")[1:]]
    lines[0]["hr"] = 72  # JSON numbers too
    (tmp_path / "a.jsonl").write_bytes(b"\n\n".join(orjson.dumps(line) for line in lines))
    expected = await played(tmp_path / "a.csv")
    for name in ("a.tsv", "a.csv.gz", "a.jsonl"):
        assert await played(tmp_path / name) == expected


async def test_a_long_table_is_joined_into_sets(tmp_path):
    rows = "id,minute,what,value\nP1,0,HR,70\nP2,0,HR,90\nP1,0,RR,16\nP1,0,HR,71\nP1,1.5,Weight,80\nP1,2,RR,18\n"
    (tmp_path / "long.csv").write_text(rows)
    events = await played(tmp_path / "long.csv", LONG)
    assert [[(one.code, one.value) for one in event.observations] for event in events] == [
        [("8867-4", 70), ("9279-1", 16)],
        [("8867-4", 71)],
        [("8867-4", 90)],
        [("9279-1", 18)],
    ]
    assert events[-1].observed_at == datetime(2000, 1, 1, 0, 2, tzinfo=UTC)
    assert events[0].origin.peer == "long.csv"


async def test_what_cannot_be_used_is_kept(tmp_path):
    (tmp_path / "bad.csv").write_text(CSV + "P3,2026-01-01T10:00:00Z,fast,1\n,2026-01-01T10:00:00Z,70\nP4,yesterday,70\n")
    (tmp_path / "only-bad.csv").write_text("id,at,hr,o2,age\nP4,yesterday,70\n")
    reader = source(tmp_path / "bad.csv")
    events = [event async for _, event in reader]
    letters = [event for event in events if isinstance(event, DeadLetterEvent)]
    assert sorted(letter.message for letter in letters) == [
        "line 5: column 'hr': not a number",
        "line 6: no patient",
        "line 7: column 'at': cannot be read as a time (ISO 8601: 2026-11-30T08:00:00)",
    ]
    assert reader.troubles.total() == 3
    assert orjson.loads(b64decode(letters[0].original_value))
    assert sum(isinstance(event, VitalsEvent) for event in events) == 3  # P3's oxygen is used
    said = [[(one.value, one.refused) for one in event.observations] for event in events if isinstance(event, VitalsEvent)]
    assert [(1.0, ""), (None, "not a number")] in said  # and that the rate cannot be is told
    assert [type(event) for event in await played(tmp_path / "only-bad.csv")] == [DeadLetterEvent]


async def letters_of(path, mapping=WIDE):
    found = [event for event in await played(path, mapping) if isinstance(event, DeadLetterEvent)]
    assert len({letter.id for letter in found}) == len(found)
    assert {letter.peer for letter in found} == {mapping.name or path.name}
    return [(letter.message, b64decode(letter.original_value)) for letter in sorted(found, key=lambda one: one.message)]


async def test_a_line_of_json_lines_that_is_no_row_is_kept_as_it_stood(tmp_path):
    good = b'{"id": "P1", "at": "2026-01-01T10:00:00Z", "hr": 72}'
    lines = [b"not json", b"[1]", b"", good, b'{"id": "M\xfcller"}', b"not json", b"{" * 2000, good[:30]]
    (tmp_path / "bad.jsonl").write_bytes(b"\n".join(lines))
    assert await letters_of(tmp_path / "bad.jsonl") == [
        ("line 1: no JSON", b"not json\n"),
        ("line 2: no JSON object", b"[1]\n"),
        ("line 5: not UTF-8", lines[4] + b"\n"),
        ("line 6: no JSON", b"not json\n"),
        ("line 7: no JSON", lines[6] + b"\n"),
        ("line 8: no JSON", good[:30]),
    ]
    assert sum(isinstance(event, VitalsEvent) for event in await played(tmp_path / "bad.jsonl")) == 1


async def test_a_line_of_a_table_that_is_no_row_is_kept_as_it_stood(tmp_path):
    lines = [
        b"id,at,hr,o2,age",
        b"P1,2026-01-01T10:00:00Z,36,5,RA,70",  # a decimal comma has moved the values
        b"P2,2026-01-01T10:00:00Z,72,RA,70,,",
        b"M\xfcller,2026-01-01T10:00:00Z,72",
        b"P\x003,2026-01-01T10:00:00Z,72",
        b'P4,2026-01-01T10:00:00Z,"72',
        b"P5,2026-01-01T10:00:00Z,75",
        b'P6,2026-01-01T10:00:00Z,"7"6',
        b'"P7",2026-01-01T10:00:00Z,"77"',
        b"P8,2026-01-01T10:00:00Z,7",  # of 78
    ]
    (tmp_path / "bad.csv").write_bytes(b"\r\n".join(lines))
    assert await letters_of(tmp_path / "bad.csv") == [
        ("line 10: cut at the end of the file: 3 values for 5 columns", lines[9]),
        ("line 2: 6 values for 5 columns", lines[1] + b"\r\n"),
        ("line 4: not UTF-8", lines[3] + b"\r\n"),
        ("line 5: a NUL character", lines[4] + b"\r\n"),
        ("line 6: its quotes do not match", lines[5] + b"\r\n"),
        ("line 8: its quotes do not match", lines[7] + b"\r\n"),
    ]
    sets = [event for event in await played(tmp_path / "bad.csv") if isinstance(event, VitalsEvent)]
    assert [event.observations[0].value for event in sets] == [72, 75, 77]


async def test_a_value_over_several_lines_is_one_row(tmp_path):
    (tmp_path / "a.csv").write_text('id,at,hr,words\nP1,2026-01-01T10:00:00Z,72,"two\nlines"\nP2,,73,\n')
    assert [message for message, _ in await letters_of(tmp_path / "a.csv", RATE)] == ["line 4: no time"]


async def test_json_that_no_table_holds_is_no_silence(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "P1", "at": "2026-01-01T10:00:00Z", "hr": {"value": 72}, "o2": true, "x": []}')
    assert [message for message, _ in await letters_of(tmp_path / "a.jsonl")] == [
        "line 1: column 'hr': not a number",
        "line 1: column 'o2': not a number",
    ]


async def test_equal_rows_have_a_letter_each(tmp_path):
    (tmp_path / "a.csv").write_text("id,at,hr\n,30/11/2026 08:00,70\n,30/11/2026 08:00,70\nP1,30/11/2026 08:00,70\n")
    assert [message for message, _ in await letters_of(tmp_path / "a.csv", RATE)] == [
        "line 2: no patient",
        "line 3: no patient",
        "line 4: column 'at': cannot be read as a time (ISO 8601: 2026-11-30T08:00:00)",
    ]


async def test_ids_are_the_same_each_time_and_differ_between_sets(tmp_path):
    (tmp_path / "ward.csv").write_text(CSV)
    first, again = await played(tmp_path / "ward.csv"), await played(tmp_path / "ward.csv", order="file")
    assert {event.id for event in first} == {event.id for event in again}
    assert len({event.id for event in first}) == 3


async def test_the_pace_and_times_from_now(tmp_path):
    (tmp_path / "ward.csv").write_text(CSV)
    clock = Clock()
    events = await played(tmp_path / "ward.csv", clock=clock, speed=60, times="from-now")
    assert clock.waits == [60.0]  # an hour of the file in a minute
    assert [event.observed_at for event in events if isinstance(event, VitalsEvent)] == [NOW, NOW + timedelta(hours=1)]
    assert events[-1].received_at == NOW + timedelta(seconds=60)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n", "no column 'age', 'at', 'hr', 'id', 'o2'"),
        ("id,at,HR,o2,Age\nP1,2026-01-01,7,2,70\n", "no column 'age', 'hr', but 'Age', 'HR'"),
        ("id,at,hr,o2,age\n" + "P1,never,7\n" * 300, "does not fit"),
        ("id,at,hr,o2,age\n" + "P1,2026-01-01,fast\n" * 300, "does not fit"),
        ("id,at,hr,o2,age\n" + "x" * 3_000_000, "cannot be read as a table: line 2 has 1048576 characters or more"),
        (b"\xff\xfe\x00\x01" * 100, "cannot be read"),
    ],
)
async def test_a_file_that_does_not_fit_stops_with_the_reason(tmp_path, content, words):
    path = tmp_path / "wrong.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Permanent, match=words):
        await replay(source(path), RecordingPublisher())
    with pytest.raises(Permanent, match="cannot be read"):
        await played(tmp_path / "absent.csv")


@pytest.mark.parametrize("column", ["encounter", "device"])
async def test_a_column_beside_the_values_must_be_there_too(tmp_path, column):
    for name, mapping in (("a.csv", WIDE), ("b.csv", LONG)):
        (tmp_path / name).write_text("id,at,hr,o2,age,minute,what,value\n")
        with pytest.raises(Permanent, match="no column 'csn'"):
            await played(tmp_path / name, mapping.model_copy(update={column: "csn"}))


async def test_what_the_mapping_names_and_the_file_never_has_is_told(tmp_path):
    (tmp_path / "long.csv").write_text("id,minute,what,value\nP1,0,hr,131\nP1,0,RR,28\n")
    done = await replay(source(tmp_path / "long.csv", LONG.model_copy(update={"age": "Age"})), RecordingPublisher())
    assert (done.vitals, done.unread) == (1, ("Age", "HR"))
    (tmp_path / "wide.jsonl").write_text('{"id": "P1", "at": "2026-01-01T10:00:00Z", "hr": 72, "O2": 3}')
    done = await replay(source(tmp_path / "wide.jsonl"), RecordingPublisher())
    assert (done.vitals, done.unread) == (1, ("age", "o2"))
    (tmp_path / "ward.csv").write_text(CSV)
    assert (await replay(source(tmp_path / "ward.csv"), RecordingPublisher())).unread == ()


async def test_an_empty_cell_is_no_value_whatever_else_is_none(tmp_path):
    (tmp_path / "a.csv").write_text("id,at,hr,o2,age\nP1,2026-01-01T10:00:00Z,,2,-9\nP1,,70,2,70\n")
    mapping = FileMapping.model_validate(WIDE.model_dump() | {"missing": ["-9"]})
    events = await played(tmp_path / "a.csv", mapping)
    assert [type(event) for event in events] == [VitalsEvent, DeadLetterEvent]
    assert [(one.code, one.value, one.refused) for one in events[0].observations] == [("3151-8", 2, "")]
    assert events[1].message == "line 3: no time"


BERLIN = RATE.model_copy(update={"zone": "Europe/Berlin"})
AUTUMN = ["01:50", "02:10", "02:50", "02:10", "02:50", "03:10"]  # 2026-10-25: 03:00 is 02:00 once more


async def times_of(path, mapping, **changes):
    reader = source(path, mapping, **changes)
    sets = [event async for _, event in reader if isinstance(event, VitalsEvent)]
    return [one.observed_at.astimezone(UTC).strftime("%H:%M") for one in sets], reader.flags


async def test_the_hour_that_occurs_twice_is_told_apart_by_the_order_of_the_rows(tmp_path):
    rows = [f"{who},2026-10-25T{at}:00,7{n}\n" for n, at in enumerate(AUTUMN) for who in ("P1", "P2")]
    (tmp_path / "wide.csv").write_text("id,at,hr\n" + "".join(rows))
    expected = [one for one in ("23:50", "00:10", "00:50", "01:10", "01:50", "02:10") for _ in range(2)]
    for order in ("time", "file"):
        times, flags = await times_of(tmp_path / "wide.csv", BERLIN, order=order)
        assert times == expected
        assert flags == {"a time that occurred twice (daylight saving)": 8}
    done = await replay(source(tmp_path / "wide.csv", BERLIN), RecordingPublisher())
    assert done.flags.total() == 8
    events = await played(tmp_path / "wide.csv", BERLIN)
    assert len({event.id for event in events}) == 12


async def test_the_hour_that_occurs_twice_in_a_long_file_and_out_of_order(tmp_path):
    long = LONG.model_copy(update={"zone": "Europe/Berlin", "time": "at", "time_in": "timestamp"})
    hourly = [("01:00", "23:00"), ("02:00", "00:00"), ("02:00", "01:00"), ("03:00", "02:00")]
    for names in (("HR", "RR"), ("RR", "HR")):
        rows = [f"P1,2026-10-25T{at}:00,{name},7{n}\n" for n, (at, _) in enumerate(hourly) for name in names]
        for order in (rows, sorted(rows, key=lambda row: row.split(",")[2])):
            (tmp_path / "long.csv").write_text("id,at,what,value\n" + "".join(order))
            times, _ = await times_of(tmp_path / "long.csv", long)
            assert times == [at for _, at in hourly]
    backwards = [f"P1,2026-10-25T{at}:00,70\n" for at in ("03:10", "02:50", "01:10")]
    (tmp_path / "back.csv").write_text("id,at,hr\n" + "".join(backwards))
    assert (await times_of(tmp_path / "back.csv", BERLIN))[0] == ["23:10", "00:50", "02:10"]


async def test_a_time_that_never_occurred_and_offsets(tmp_path):
    rows = ["P1,2026-03-29T02:30:00,70", "P1,2026-10-25T02:30:00+01:00,71", "P1,2026-10-25T02:30:00+02:00,72"]
    (tmp_path / "a.csv").write_text("id,at,hr\n" + "\n".join(rows) + "\n")
    times, flags = await times_of(tmp_path / "a.csv", BERLIN)
    assert (times, flags) == (["01:30", "00:30", "01:30"], {"a time that never occurred (daylight saving)": 1})


async def test_publishing_until_it_is_confirmed(tmp_path):
    (tmp_path / "ward.csv").write_text(CSV)

    class Shaky(RecordingPublisher):
        failures = 2

        async def publish(self, events, *, timeout=None):
            if self.failures:
                self.failures -= 1
                raise Transient("broker down")
            await super().publish(events, timeout=timeout)

    publisher, seen = Shaky(), []
    done = await replay(source(tmp_path / "ward.csv", batch=2, retry_after=0.01), publisher, progress=seen.append)
    assert (done.sets, done.total, done.events, done.vitals, done.repeated) == (2, 2, 3, 2, 2)
    assert [call for call in publisher.calls if len(call) > 2] == []
    assert seen[-1] == done


async def test_going_on_behind_the_bookmark(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("id,minute,what,value\n" + "".join(f"P{n % 3},{n},HR,{60 + n}\n" for n in range(50)))
    bookmark = Bookmark(tmp_path / "mark")
    assert bookmark.load(path) is None
    whole = RecordingPublisher()
    await replay(source(path, LONG, times="from-now"), whole)

    class Ends(RecordingPublisher):
        async def publish(self, events, *, timeout=None):
            if len(self.calls) == 4:
                raise KeyboardInterrupt
            await super().publish(events, timeout=timeout)

    first = Ends()
    with pytest.raises(KeyboardInterrupt):
        await replay(source(path, LONG, times="from-now", batch=5), first, bookmark=bookmark)
    mark = bookmark.load(path)
    assert 0 < mark.sets < 50
    second = RecordingPublisher()
    shift = timedelta(seconds=mark.shift)
    clock = Clock()
    clock.at += timedelta(hours=3)  # later: but the file's times stay where they were moved to
    await replay(source(path, LONG, clock=clock, skip=mark.sets, shift=shift), second, bookmark=bookmark)
    assert {event.id for event in first.events + second.events} == {event.id for event in whole.events}
    assert bookmark.load(path).sets == 50
    path.write_text("other")
    with pytest.raises(Permanent, match="another file"):
        bookmark.load(path)
    (tmp_path / "mark").write_text("{")
    with pytest.raises(Permanent, match="cannot be read"):
        bookmark.load(path)


def test_mappings():
    assert {"cinc2019", "mimic3_demo", "physionet2012"} <= set(packaged())
    for name in packaged():
        assert FileMapping.load(name).name == name
    with pytest.raises(Permanent, match="no mapping named"):
        FileMapping.load("nonsense")


@pytest.mark.parametrize(
    "text",
    [
        "patient = 1",
        "][",
        'patient="p"\ntime="t"\n[columns]\nx={code="2339-0"}',
        'layout="long"\npatient="p"\ntime="t"\n[columns]',
        'patient="p"\ntime="t"\n[columns]\nx={code="8310-5", unit="bananas"}',
        'patient="p"\ntime="t"\n[columns]\nx={code="8310-5", unit="/min"}',
    ],
)
def test_a_mapping_that_is_wrong_says_so(tmp_path, text):
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(Permanent, match=r"the mapping m\.toml"):
        FileMapping.load(tmp_path / "m.toml")


CELL = st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12) | st.sampled_from(
    ["1e400", "-0", "2026-01-01T00:00:00Z", "99,5", "nan"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({"id": CELL, "at": CELL, "hr": CELL, "o2": CELL, "age": CELL}), max_size=8))
async def test_any_table_is_played_and_nothing_dropped_in_silence(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in table))
    events = await played(path)
    letters = sum(isinstance(event, DeadLetterEvent) for event in events)
    assert letters >= sum(not row["id"].strip() or "2026" not in row["at"] for row in table)
    assert all(event.observed_at.tzinfo for event in events if isinstance(event, VitalsEvent))
