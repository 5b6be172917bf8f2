"""Replay as its operator has it: chosen, counted, run, gone on with; that it never alerts and never takes a newer one's place."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from models.errors import Permanent, Poison, Transient
from processors.events import NoteEvent, VitalsEvent
from processors.identity import natural_id
from processors.monitor import Assessment
from streams import yielding
from streams.deadletters import dead_letter, redriven
from streams.lagging import Lag
from streams.lane import Input, Outcome
from streams.letters import Letter, State
from streams.machine import Machine
from streams.outbox import Outbox, partition_of
from streams.reader import Reader
from streams.redriving import REPLACED, YOUNG, DeadLetters, Which
from streams.replaying import Choice, Pace, Progress, Replays, Told, failures
from streams.standing import COMING, SCORED
from tests import vitals as bedside
from tests.clinic import PARTITIONS, Clinic, note
from tests.kafka import Kafka
from tests.lanes import Echo, bodies, echo, running, until
from tests.lanes import note as small_note
from tests.site import Site

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

NOTES = "clinical.notes"


@contextlib.asynccontextmanager
async def replays_of(settings: object) -> AsyncIterator[Replays]:
    outbox = Outbox(settings, source="/test")  # type: ignore[arg-type]
    await outbox.start()
    try:
        yield Replays(settings, outbox, "ops-7")  # type: ignore[arg-type]
    finally:
        await outbox.stop()


def _ill(number: int, at: datetime) -> VitalsEvent:
    """A set with a NEWS2 in the teens."""
    start = at - timedelta(minutes=30)
    worst = list(bedside.vitals(1, 30, start, every=timedelta(minutes=1), seed=number + 1))[14]
    return worst.model_copy(
        update={
            "id": natural_id("ill", number, at.isoformat()),
            "patient_id": f"patient-{number:04d}",
            "encounter_id": f"encounter-{number}",
            "observed_at": at,
            "received_at": at,
        }
    )


async def test_replayed_records_give_the_same_ids_and_are_audited(kafka: Kafka) -> None:
    site = Site(kafka)
    kafka.create(site.prefix + "clinical.patients", 1)  # whom a patient's records were merged into is looked up there
    notes = [small_note(n, patient=f"p{n % 2}") for n in range(10)]
    await site.write(*notes)
    choice = Choice(topic=NOTES, patients=("p1",))
    async with running(site.settings()), replays_of(site.settings()) as replays:
        await site.until_committed(10)
        plan = await replays.plan(await replays.choose(choice, limit=100))
        assert await replays.run(plan.ready, choice, "new model", pace=Pace(), progress=Progress.open(None, choice)) == 5
        await site.until_committed(15)
        # A copy is not a record of its own: what is chosen next is again the five.
        assert len(await replays.choose(choice, limit=100)) == 5
    records = await site.records(NOTES)
    assert [one.value for one in records[10:]] == [one.value for one in records[:10] if one.key == b"p1"]
    sources = [redriven(one) for one in records[10:]]
    assert [one.offset for one in sources if one] == [1, 3, 5, 7, 9]
    times = Counter(one["id"] for one in await site.outputs())
    assert times == {natural_id(one.id, "echo"): 1 + (one.patient_id == "p1") for one in notes}
    (audit,) = [one for one in await site.outputs("clinical.audit") if one["action"] == "replay"]
    assert (audit["agent"], audit["subject"]) == ("ops-7", NOTES)
    assert audit["reason"].startswith("new model {")
    assert [one["input_id"] for one in audit["entries"]] == [one.id for one in notes if one.patient_id == "p1"]


async def test_choosing_by_range_time_type_and_encounter(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    first = [note("p", f"a{n}", "Cough.", encounter_id=f"e{n % 2}") for n in range(4)]
    await site.write(*first)
    stamps = {one.offset: one.timestamp for one in await site.records(NOTES)}
    await asyncio.sleep(0.05)
    cut = datetime.fromtimestamp((max(stamps.values()) + 1) / 1000, UTC)
    await asyncio.sleep(0.05)
    await site.write(note("p", "late", "Fever."))
    number = (await site.records(NOTES))[0].partition
    replays = Replays(site.settings)

    async def offsets(**asked: object) -> list[int]:
        choice = Choice(topic=NOTES, **asked)  # type: ignore[arg-type]
        return [one.event.original_offset for one in await replays.choose(choice, limit=100)]

    assert await offsets() == [0, 1, 2, 3, 4]
    assert await offsets(until=cut) == [0, 1, 2, 3]
    assert await offsets(since=cut) == [4]
    assert await offsets(ranges=((number, 1, 3),)) == [1, 2]
    assert await offsets(ranges=((number, 0, 1), (number, 3, 5))) == [0, 3, 4]  # each of them
    assert await offsets(encounters=("e1",)) == [1, 3]
    assert await offsets(note_types=("11506-3",)) == [0, 1, 2, 3, 4]
    assert await offsets(note_types=("18842-5",)) == []
    with pytest.raises(Permanent, match="more than 3"):
        await replays.choose(Choice(topic=NOTES), limit=3)
    with pytest.raises(Permanent, match="no partition 99"):
        await offsets(ranges=((99, 0, 1),))
    elsewhere = site.settings.model_copy(
        update={"kafka": site.settings.kafka.model_copy(update={"topic_prefix": "elsewhere."})}
    )
    for choice, name in ((Choice(topic=NOTES), NOTES), (Choice(letters=("a",)), "clinical.dead-letters")):
        with pytest.raises(Permanent, match=f"^not on .*: elsewhere.{name}$"):
            await Replays(elsewhere).choose(choice, limit=100)


@pytest.mark.real_kafka
async def test_a_choice_by_time_begins_to_read_where_that_time_begins(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, read, spans = Clinic(kafka, tmp_path), Reader.read, []
    topic, half = site.prefix + NOTES, timedelta(hours=12)
    start = datetime.now(UTC).replace(microsecond=0) - 12 * half
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    for number in range(10):  # two a day; one came half a day late
        at = start + (number - (number == 5)) * half
        body = note("p", str(number), "Cough.").model_dump_json().encode()
        await producer.send_and_wait(topic, body, b"p", 0, int(at.timestamp() * 1000))
    await producer.stop()

    def seen(self: Reader, name: str, partition: int, first: int, end: int) -> AsyncIterator[list[Any]]:
        if (name, partition) == (topic, 0):
            spans.append((first, end))
        return read(self, name, partition, first, end)

    monkeypatch.setattr(Reader, "read", seen)  # the real one, looked at
    choice = Choice(topic=NOTES, since=start + 4 * half, until=start + 5 * half)
    found = [one.event.original_offset for one in await Replays(site.settings).choose(choice, limit=100)]
    assert (found, spans) == ([4, 5], [(4, 7)])  # a day of disorder is allowed for


async def test_the_original_behind_a_dead_letter_is_chosen_by_the_letters_id(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    await site.write(note("p", "a", "Cough."), note("p", "b", "Fever."))
    records = await site.records(NOTES)
    letter, twin = (
        dead_letter(records[1], Poison("cannot", stage="process"), lane=lane, failed_at=datetime.now(UTC))
        for lane in ("notes-entities", "notes-vectors")
    )
    async with replays_of(site.settings) as replays:
        assert replays.outbox is not None
        await replays.outbox.send([replays.outbox.encode(letter), replays.outbox.encode(twin)])
        choice = Choice(letters=(letter.id[:12], twin.id))
        plan = await replays.plan(await replays.choose(choice, limit=100))
        assert [one.event.original_offset for one in plan.ready] == [1]
        assert await replays.run(plan.ready, choice, "mended", pace=Pace(), progress=Progress.open(None, choice)) == 1
        with pytest.raises(Permanent, match="no dead letter begins with nobody"):
            await replays.choose(Choice(letters=("nobody",)), limit=100)
        # All conditions hold, of a letter's original too.
        place = (records[1].partition, records[1].offset, records[1].offset + 1)
        for asked in ({"note_types": ("11506-3",)}, {"topic": NOTES, "ranges": (place,), "patients": ("p",)}):
            found = await replays.choose(Choice(letters=(letter.id,), **asked), limit=100)  # type: ignore[arg-type]  # fields of several types
            assert [one.event.original_offset for one in found] == [1]
        for other in (
            {"note_types": ("28570-0",)},
            {"topic": NOTES, "ranges": ((place[0], 90_000, 90_002),)},
            {"topic": "clinical.images"},
            {"patients": ("q",)},
        ):
            with pytest.raises(Permanent, match="none of 1 dead letters fulfils the other conditions"):
                await replays.choose(Choice(letters=(letter.id,), **other), limit=100)  # type: ignore[arg-type]  # likewise
    copies = (await site.records(NOTES))[2:]
    assert [one.value for one in copies] == [records[1].value]
    assert [source.attempts for one in copies if (source := redriven(one))] == [{letter.id: 1, twin.id: 1}]
    (audit,) = [one for one in await site.read("clinical.audit") if one["action"] == "replay"]
    assert audit["subject"] == "dead letters"
    async with DeadLetters(site.settings) as desk:  # or the next redrive would do them once more
        assert await desk.find(Which()) == []
        assert [one.by for one in await desk.find(Which(), states=("redriven",))] == ["ops-7", "ops-7"]


async def test_what_failed_before_is_counted_and_a_second_failure_is_the_same_letter_and_no_new_burst(kafka: Kafka) -> None:
    site, choice = Site(kafka), Choice(topic=NOTES)
    await site.write(*(small_note(n, patient="p", text="poison" if n % 2 else "") for n in range(4)))

    async def replay(replays: Replays) -> list[Letter]:
        plan = await replays.plan(await replays.choose(choice, limit=100))
        await replays.run(plan.ready, choice, "again", pace=Pace(), progress=Progress.open(None, choice))
        return failures(plan.ready)

    async def letters(*states: State) -> dict[str, tuple[str, int]]:
        async with DeadLetters(site.settings()) as desk:
            found = await desk.find(Which(), states=states or ("open", "redriven", "discarded"))
        return {one.event.id: (one.state, one.event.attempts) for one in found}

    async with replays_of(site.settings()) as replays:
        async with running(site.settings()) as (_, _, lane):
            await site.until_committed(4)
            first = await letters()
            assert [*first.values()] == [("open", 1)] * 2
            before = await replay(replays)
            assert {one.event.id for one in before} == first.keys()
            assert [(one.event.stage, one.event.error_class) for one in before] == [("model", "Poison")] * 2
            await site.until_committed(8)
            assert await letters() == dict.fromkeys(first, ("open", 2))
            counted = {
                name: lane.metrics.registry.get_sample_value(
                    f"vigil_{name}_total", {"lane": "echo", "stage": "model", "error": "Poison"}
                )
                for name in ("dead_lettered", "dead_lettered_again")
            }
            assert counted == {"dead_lettered": 2, "dead_lettered_again": 2}
            async with DeadLetters(site.settings(), outbox=Outbox(site.settings(), source="/test"), user="ops-7") as desk:
                await desk.discard([one for one in await desk.find(Which()) if one.event.id == before[0].event.id], "never")
            assert len(await replay(replays)) == 2  # it failed before, whatever was said of it
            await site.until_committed(12)
            assert await letters() == dict.fromkeys(first, ("open", 3))

        class Mended(Echo):
            async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
                return [Outcome([echo(one)]) for one in inputs]

        async with running(site.settings(), Mended):
            await replay(replays)
            await site.until_committed(16)
    assert await letters("open") == {}
    assert [audit["entries"] for audit in await site.outputs("clinical.audit") if audit["action"] == "redrive"] == []


def test_a_choice_that_says_nothing_or_two_things_is_refused() -> None:
    for asked in ({"letters": ("",)}, {"topic": NOTES, "patients": (" ",)}, {"topic": NOTES, "note_types": ("",)}):
        with pytest.raises(Permanent, match="empty id or code chooses nothing"):
            Choice(**asked)  # type: ignore[arg-type]  # fields of several types
    with pytest.raises(Permanent, match="offsets are those of a topic"):
        Choice(letters=("a",), ranges=((0, 1, 2),))
    with pytest.raises(Permanent, match="only notes have a note type"):
        Choice(topic="clinical.vitals", note_types=("a",))


async def test_an_older_version_of_a_note_is_held_back(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    first = note("p", "a", "Fever.")
    second = note("p", "a", "No fever.", version=2, received_at=first.received_at + timedelta(hours=1))
    await site.write(first, second)
    replays = Replays(site.settings)
    plan = await replays.plan(await replays.choose(Choice(topic=NOTES), limit=100))
    assert [one.event.original_offset for one in plan.ready] == [1]
    assert [one.event.original_offset for one in plan.held[REPLACED]] == [0]


async def test_replayed_vitals_never_alert(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    now = datetime.now(UTC)
    old, fresh = _ill(1, now - timedelta(hours=3)), _ill(2, now)
    choice = Choice(topic="clinical.vitals")
    await site.write(*(bedside.patient(number, now - timedelta(days=1)) for number in (1, 2)), old, fresh)
    async with site.running("vitals"), replays_of(site.settings) as replays:
        await site.until_done("vitals", "clinical.vitals")
        before = [one for one in await site.read("clinical.alerts") if one.get("kind") == "news2"]
        plan = await replays.plan(await replays.choose(choice, limit=100), rescore=True)
        assert (len(plan.ready), [len(held) for held in plan.held.values()]) == (1, [1])
        assert YOUNG in plan.held
        await replays.run(plan.ready, choice, "look again", pace=Pace(), progress=Progress.open(None, choice))
        site.written["clinical.vitals"] += 1
        await site.until_done("vitals", "clinical.vitals")
    after = [one for one in await site.read("clinical.alerts") if one.get("kind") == "news2"]
    assert {one["patient_id"] for one in before} == {fresh.patient_id}
    assert [one for one in after if one["state"] == "raised"] == [one for one in before if one["state"] == "raised"]


async def test_vitals_whose_score_stands_are_held_back_and_what_has_none_is_scored(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, choice, observe = Clinic(kafka, tmp_path), Choice(topic="clinical.vitals"), Machine.observe
    old = [_ill(1, datetime.now(UTC) - timedelta(hours=hours)) for hours in (9, 8, 7)]

    def with_a_bug(self: Machine, record: Any) -> Assessment:
        if record.offset == 1:
            raise Poison("cannot", stage="process")
        return observe(self, record)

    async def planned(**how: bool) -> tuple[list[int], dict[str, list[int]]]:
        plan = await replays.plan(await replays.choose(choice, limit=100), **how)
        held = {why: [one.event.original_offset for one in letters] for why, letters in plan.held.items()}
        return [one.event.original_offset for one in plan.ready], held

    await site.write(bedside.patient(1, old[0].observed_at), *old)
    async with replays_of(site.settings) as replays:
        assert await planned() == ([], {COMING: [0, 1, 2]})  # the lane would score them, and then the copies
        monkeypatch.setattr(Machine, "observe", with_a_bug)
        async with site.running("vitals"):
            await site.until_done("vitals", "clinical.vitals")
            assert await planned() == ([1], {SCORED: [0, 2]})
            assert await planned(rescore=True) == ([0, 1, 2], {})
            monkeypatch.undo()
            plan = await replays.plan(await replays.choose(choice, limit=100))
            await replays.run(plan.ready, choice, "mended", pace=Pace(), progress=Progress.open(None, choice))
            site.written["clinical.vitals"] += 1
            await site.until_done("vitals", "clinical.vitals")
        assert await planned() == ([], {SCORED: [0, 1, 2]})
    scores = [one["source"] for one in await site.read("clinical.scores")]
    assert [(one["event_id"], one["offset"]) for one in scores] == [(old[0].id, 0), (old[2].id, 2), (old[1].id, 3)]


async def test_a_replay_that_was_stopped_goes_on_where_it_was(kafka: Kafka, tmp_path: Path) -> None:
    site = Site(kafka)
    await site.write(*(small_note(n, patient="p") for n in range(20)))
    choice, file = Choice(topic=NOTES), tmp_path / "progress.json"

    class Stop(Exception):
        pass

    def stop(told: Told) -> None:
        if told.done >= 8:
            raise Stop

    async with replays_of(site.settings()) as replays:
        plan = await replays.plan(await replays.choose(choice, limit=100))
        with pytest.raises(Stop):
            await replays.run(plan.ready, choice, "why", pace=Pace(rate=4), progress=Progress.open(file, choice), tell=stop)
        assert file.stat().st_mode & 0o077 == 0
        plan = await replays.plan(await replays.choose(choice, limit=100))
        assert await replays.run(plan.ready, choice, "why", pace=Pace(), progress=Progress.open(file, choice)) == 12
        assert await replays.run(plan.ready, choice, "why", pace=Pace(), progress=Progress.open(file, choice)) == 0
        # What was held back when the replay began, and is ready now, is not skipped; nor is it done twice.
        file.unlink()
        ready, held = plan.ready[5:], plan.ready[:5]
        assert await replays.run(ready, choice, "why", pace=Pace(), progress=Progress.open(file, choice), held=held) == 15
        assert await replays.run(plan.ready, choice, "why", pace=Pace(), progress=Progress.open(file, choice)) == 5
        assert await replays.run(plan.ready, choice, "why", pace=Pace(), progress=Progress.open(file, choice)) == 0
        Progress.open(file, choice).check(plan.ready)
    records = await site.records(NOTES)
    first = [one.value for one in records[:20]]
    assert [one.value for one in records[20:]] == first + first[5:] + first[:5]
    with pytest.raises(Permanent, match="other records"):
        Progress.open(file, Choice(topic=NOTES, patients=("q",)))
    for count in (25, 10):  # made anew, longer or shorter than it was
        kafka.make_anew(site.prefix + NOTES, PARTITIONS)
        await site.write(*(small_note(n, patient="p") for n in range(30, 30 + count)))
        with pytest.raises(Permanent, match=r"is of another .*clinical.notes: what was replayed last does not stand at"):
            Progress.open(file, choice).check(await Replays(site.settings()).choose(choice, limit=100))
    file.write_text("[]")
    with pytest.raises(Permanent, match="no progress file"):
        Progress.open(file, choice)


async def test_a_replay_waits_for_a_lane_that_is_behind(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    await site.write(*(note("p", f"n{n}", "Cough.") for n in range(3)))
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", NOTES)
    await site.write(*(note("p", f"m{n}", "Cough.") for n in range(6)))  # the lane is six behind and stands still
    choice, told = Choice(topic=NOTES), []
    async with replays_of(site.settings) as replays:
        plan = await replays.plan(await replays.choose(choice, limit=100))
        run = asyncio.create_task(
            replays.run(plan.ready, choice, "why", pace=Pace(), progress=Progress.open(None, choice), tell=told.append)
        )
        await until(lambda: any(one.waits for one in told), what="the replay says that it waits")
        assert told[-1].waits == "notes-entities is 6 records behind"
        assert len(await site.records(NOTES)) == 9
        async with site.running("notes-entities"):
            assert await run == 9
    assert len(await site.records(NOTES)) == 18


async def test_a_replay_waits_for_a_cluster_that_is_busy_with_itself(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Clinic(kafka, tmp_path)
    await site.write(note("p", "a", "Cough."))
    choice, told, trouble = Choice(topic=NOTES), [], [Transient("the offsets cannot be read (NOT_COORDINATOR)")]
    look = yielding.lags

    async def lags(*args: Any, **named: Any) -> list[Lag]:
        if trouble:
            raise trouble.pop()
        return await look(*args, **named)

    monkeypatch.setattr(yielding, "lags", lags)
    async with replays_of(site.settings) as replays:
        plan = await replays.plan(await replays.choose(choice, limit=100))
        progress = Progress.open(None, choice)
        assert await replays.run(plan.ready, choice, "why", pace=Pace(), progress=progress, tell=told.append) == 1
    assert [one.waits for one in told] == ["the offsets cannot be read (NOT_COORDINATOR)", ""]


async def test_what_came_since_to_a_lower_partition_is_not_taken_for_done(kafka: Kafka, tmp_path: Path) -> None:
    site, choice, file = Clinic(kafka, tmp_path), Choice(topic=NOTES), tmp_path / "progress"
    low, high = (next(f"p{n}" for n in range(99) if partition_of(f"p{n}".encode(), PARTITIONS) == number) for number in (0, 1))
    await site.write(note(low, "a", "Cough."), note(high, "a", "Cough."))
    async with replays_of(site.settings) as replays:
        plan = await replays.plan(await replays.choose(choice, limit=100))
        assert await replays.run(plan.ready, choice, "why", pace=Pace(), progress=Progress.open(file, choice)) == 2
        await site.write(note(low, "b", "Fever."))
        plan = await replays.plan(await replays.choose(choice, limit=100))
        progress = Progress.open(file, choice)
        assert [progress.wants(one) for one in plan.ready] == [False, True, False]
        assert await replays.run(plan.ready, choice, "why", pace=Pace(), progress=progress) == 1
        assert progress.done == 3


async def test_the_command_line(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    events: list[NoteEvent] = [note("p", f"n{n}", "Mrs Jones coughs.") for n in range(3)]
    await site.write(*events, _ill(1, datetime.now(UTC) - timedelta(hours=9)))
    async with replays_of(site.settings) as replays:
        assert replays.outbox is not None
        poison = Poison("cannot", stage="process")
        letter = dead_letter((await site.records(NOTES))[0], poison, lane="notes-entities", failed_at=datetime.now(UTC))
        await replays.outbox.send([replays.outbox.encode(letter)])
    file = tmp_path / "file"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(kafka.kind == "embedded").lower(),
    }

    command = [sys.executable, "-m", "streams.cli", "replay", "run"]

    def vigil(code: int, *words: str) -> str:
        done = subprocess.run([*command, *words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, input="")
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stdout + done.stderr
        assert "Jones" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def stopped(*words: str) -> str:
        """Ctrl-C once a record is done."""
        with subprocess.Popen([*command, *words], env=env, cwd=tmp_path, stdout=-1, stderr=-1, text=True) as process:
            while process.poll() is None and not (file.exists() and json.loads(file.read_bytes())["done"]):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        return said.strip()

    def work() -> None:
        assert "records of a topic or behind dead letters" in vigil(2)
        assert "is not replayed" in vigil(2, "--topic", "clinical.feedback")
        assert "no range of offsets" in vigil(2, "--topic", NOTES, "--offsets", "1-2")
        assert "dry run: nothing was done" in vigil(0, "--topic", NOTES, "--dry-run")
        assert "failed before" not in vigil(0, "--topic", "clinical.vitals", "--dry-run", "--rescore")
        failed = vigil(0, "--topic", NOTES, "--dry-run")
        assert "1 of these failed before, and may again" in failed and "notes-entities │ process │ Poison" in failed
        assert "which then count as redriven: 1; what fails again is the same letter" in failed
        assert "a reason is needed" in vigil(2, "--topic", NOTES, "--yes")
        assert f"held back: 1 x {COMING}" in vigil(0, "--topic", "clinical.vitals", "--dry-run")
        told = "from the state as it is now: that replaces what stands"
        assert told in vigil(0, "--topic", "clinical.vitals", "--dry-run", "--rescore")
        assert told not in vigil(0, "--topic", NOTES, "--dry-run", "--rescore")
        asked = ("--topic", NOTES, "--patient", "p", "--reason", "why", "--yes", "--resume", "file")
        for no_file in ("none/file", "."):
            assert f"the progress {no_file} cannot be written" in vigil(2, *asked[:-1], no_file)
        assert stopped("--rate", "1", *asked) == "stopped: 1 of 3 are done. The same command goes on from there (--resume file)"
        assert "2 replayed, 1 were done before" in vigil(0, *asked)
        assert "0 replayed, 3 were done before" in vigil(0, *asked)

    await asyncio.to_thread(work)
    records = await site.records(NOTES)
    assert [one["id"] for one in bodies(records)] == [one.id for one in events] * 2
    assert json.loads(file.read_bytes())["done"] == 3
