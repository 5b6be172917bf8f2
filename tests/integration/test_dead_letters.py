"""Dead letters as their operator has them: found, shown, redriven, discarded; and that a redrive does no harm."""

import asyncio
import contextlib
import getpass
import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES
from infra.kafka.host import free_ports
from models.errors import Permanent, Poison
from models.tasks import ModelIdentity
from processors.events import Event, NoteEvent, PatientEvent
from processors.identity import natural_id
from streams.clock import real_clock
from streams.deadletters import dead_letter, original, redrive
from streams.lane import Input, Outcome
from streams.outbox import Outbox, partition_of
from streams.redriving import REPLACED, YOUNG, DeadLetters, Which
from streams.replaying import Choice, Pace, Progress, Replays
from streams.settings import Settings
from tests import vitals as bedside
from tests.clinic import PARTITIONS, Clinic, note, note_id, points
from tests.hl7_messages import obx, reader, vitals
from tests.kafka import Kafka, Record
from tests.lanes import Echo, bodies, echo, produce, running, until, wire
from tests.lanes import note as small_note
from tests.site import Site

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

PHI = "Mrs Jones of 7 Mill Lane"


class Healed(Echo):
    """The same lane after its model was mended."""

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        return [Outcome([echo(one)]) for one in inputs]


@contextlib.asynccontextmanager
async def desk_of(settings: Settings) -> AsyncIterator[DeadLetters]:
    async with DeadLetters(settings, outbox=Outbox(settings, source="/test"), user="ops-7") as desk:
        yield desk


async def _letters(site: Site, count: int) -> None:
    async def there() -> bool:
        return len(await asyncio.to_thread(site.kafka.read, site.prefix + "clinical.dead-letters")) >= count

    await until(there, what=f"{count} records of dead letters")


async def _audit(kafka: Kafka, prefix: str, action: str) -> list[dict[str, Any]]:
    found = bodies(await asyncio.to_thread(kafka.read, prefix + "clinical.audit"))
    return [one for one in found if one["action"] == action]


async def test_a_second_failure_is_the_same_letter_and_a_mended_lane_ends_it(kafka: Kafka) -> None:
    site = Site(kafka)
    poison = small_note(1, text="poison")
    await produce(kafka.bootstrap, site.notes, [wire(small_note(0)), wire(poison)], site.partitions)
    settings = site.settings()
    async with desk_of(settings) as desk:
        async with running(settings):
            await _letters(site, 1)
            (first,) = await desk.find(Which(), whole=True)
            plan = await desk.plan([first])
            assert (plan.ready, dict(plan.held)) == ([first], {})
            assert await desk.redrive(plan.ready, "try again") == 1
            await _letters(site, 3)  # letter, mark, letter
        (again,) = await desk.find(Which(), whole=True)
        changed = {"attempts": 2, "failed_at": again.event.failed_at, "tried_offset": 2}
        assert again.event == first.event.model_copy(update=changed)
        assert again.first_failed_at == first.event.failed_at

        async with running(settings, Healed):
            await desk.redrive((await desk.plan([again])).ready, "mended")

            async def out() -> bool:
                records = await asyncio.to_thread(kafka.read, site.prefix + "clinical.entities")
                return natural_id(poison.id, "echo") in {body["id"] for body in bodies(records)}

            await until(out, what="the output of the redriven note")
        assert await desk.find(Which()) == []
        (done,) = await desk.find(Which(), states=("redriven",))
        assert (done.event.id, done.event.attempts, done.by) == (first.event.id, 2, "ops-7")
    records = await asyncio.to_thread(kafka.read, site.notes)
    assert [record.value for record in records[1:]] == [wire(poison)[1]] * 3
    audit = await _audit(kafka, site.prefix, "redrive")
    assert [(one["agent"], one["reason"]) for one in audit] == [("ops-7", "try again"), ("ops-7", "mended")]
    assert audit[0]["entries"][0]["input_id"] == first.event.id
    assert audit[0]["entries"][0]["input_digest"] == sha256(wire(poison)[1]).hexdigest()


async def test_letters_are_redriven_in_the_order_of_their_originals(kafka: Kafka) -> None:
    site = Site(kafka)
    notes = [small_note(n, patient="p", text="poison") for n in range(7)]
    await produce(kafka.bootstrap, site.notes, [wire(one) for one in notes], site.partitions)
    async with running(site.settings()):
        await _letters(site, 7)
    async with desk_of(site.settings()) as desk:
        found = await desk.find(Which(), whole=True)
        await desk.redrive((await desk.plan(found[::-1])).ready, "in order")
    values = [record.value for record in await asyncio.to_thread(kafka.read, site.notes)]
    assert values[7:] == values[:7]


class Other(Echo):
    """Another lane that reads the same topic, and can no more."""

    name = "other"


class Worse(Echo):
    """The same lane with a model that takes nothing."""

    @property
    def model(self) -> ModelIdentity | None:
        return ModelIdentity("worse", "1", "f" * 64)

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        return [Outcome(error=Permanent("takes nothing")) for _ in inputs]


async def test_what_fails_in_a_replay_after_it_was_closed_is_open_again(kafka: Kafka) -> None:
    site = Site(kafka)
    settings = site.settings()
    await produce(kafka.bootstrap, site.notes, [wire(small_note(n, text="poison")) for n in range(2)], site.partitions)
    async with desk_of(settings) as desk:
        async with running(settings):
            await _letters(site, 2)
        async with running(settings, Healed):
            first, second = await desk.find(Which(), whole=True)
            await desk.redrive([first], "mended")
            await desk.discard([second], "never mind")
            await site.until_committed(3)
        assert await desk.find(Which()) == []
        outbox = Outbox(settings, source="/test")
        await outbox.start()
        replays, choice = Replays(settings, outbox, "ops-7"), Choice(topic="clinical.notes")
        records = await replays.choose(choice, limit=10)
        await replays.run(records, choice, "another model", pace=Pace(), progress=Progress(None, choice.digest))
        await outbox.stop()
        async with running(settings, Worse):
            await _letters(site, 6)  # two letters, two marks, two letters
        found = await desk.find(Which(), whole=True)
        assert {one.event.id for one in found} == {first.event.id, second.event.id}
        for one in found:
            assert (one.event.attempts, one.event.error, one.event.model_digest) == (2, "Permanent", "f" * 64)
            assert one.event.failed_at > one.first_failed_at
        assert await desk.find(Which(), states=("redriven", "discarded")) == []
        assert {original(one.event) for one in found} == {original(first.event), original(second.event)}


async def test_one_copy_serves_the_letters_of_all_lanes_and_a_late_mark_hides_none(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(kafka)
    settings = site.settings()
    poison = [small_note(n, patient="p", text="poison") for n in range(3)]
    await produce(kafka.bootstrap, site.notes, [wire(one) for one in poison], site.partitions)
    monkeypatch.setattr("streams.redriving._TOGETHER", 3)  # less than two originals' letters: none is parted from its own
    async with desk_of(settings) as desk, running(settings), running(settings, Other):
        await _letters(site, 6)
        await desk.redrive((await desk.plan(await desk.find(Which(lanes=("other",)), whole=True))).ready, "one lane's")
        await _letters(site, 15)  # and three marks, and three letters of each lane
        found = await desk.find(Which(), whole=True)
        assert {(one.event.lane, one.event.attempts) for one in found} == {("echo", 2), ("other", 2)}

        mark, marks = desk.mark, 0

        async def late(letters: Any, state: Any) -> None:
            nonlocal marks
            await _letters(site, 15 + 2 * marks + len(letters))  # the lanes are faster than the mark
            await mark(letters, state)
            marks += len(letters)

        monkeypatch.setattr(desk, "mark", late)
        assert await desk.redrive((await desk.plan(found)).ready, "all") == 6
        await _letters(site, 27)
        after = await desk.find(Which(), whole=True)
    assert {(one.event.lane, one.event.original_offset, one.event.attempts) for one in after} == {
        (lane, offset, 3) for lane in ("echo", "other") for offset in range(3)
    }
    values = [record.value for record in await site.records("clinical.notes")]
    assert values == [wire(one)[1] for one in poison] * 3  # the originals, and each once for each redrive


async def test_a_redrive_waits_for_a_lane_that_is_behind(kafka: Kafka, tmp_path: Path) -> None:
    site, heard = Clinic(kafka, tmp_path), list[str]()
    await site.write(note("p", "a", "Cough."))
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
    await site.write(*(note("p", f"m{n}", "Cough.") for n in range(6)))  # the lane is six behind and stands still
    await _file(site, "notes-entities", note("p", "a", "Cough."))
    async with desk_of(site.settings) as desk:
        plan = await desk.plan(await desk.find(Which(), whole=True))
        work = asyncio.create_task(desk.redrive(plan.ready, "mended", waits=heard.append))
        await until(lambda: heard, what="the redrive says that it waits")
        assert heard[0] == "notes-entities is 6 records behind"
        assert len(await site.records("clinical.notes")) == 7
        assert await _audit(kafka, site.prefix, "redrive") == []  # what waits is not said to be done
        async with site.running("notes-entities"):
            assert await work == 1
    assert len(await site.records("clinical.notes")) == 8


# ------------------------------------------------------------------------------------------------------------ late data


async def _file(site: Clinic, lane: str, event: Event, *, offset: int = 0, failed_at: datetime | None = None) -> None:
    """Put the dead letter of an event on the topic, as the lane would have."""
    key = getattr(event, "patient_id", "").encode()
    value = event.model_dump_json().encode()
    record = Record(site.prefix + event.topic, partition_of(key, PARTITIONS), offset, key, value, (), 1_700_000_000_000)
    why, at = Poison("cannot", stage="decode"), failed_at or real_clock()
    letter = dead_letter(record, why, lane=lane, failed_at=at, model_digest=sha256(lane.encode()).hexdigest())
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    await outbox.send([outbox.encode(letter)])
    await outbox.stop()


def _ill(number: int, at: datetime) -> Any:
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


async def test_redriven_vitals_update_history_and_never_alert(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    now = datetime.now(UTC)
    old, fresh, live = _ill(1, now - timedelta(hours=3)), _ill(2, now), _ill(3, now)
    await _file(site, "vitals", old)
    await _file(site, "vitals", fresh, offset=1)
    await site.write(*(bedside.patient(number, now - timedelta(days=1)) for number in (1, 2, 3)))
    async with site.running("vitals"), desk_of(site.settings) as desk:
        await site.until_done("vitals", "clinical.patients")
        found = await desk.find(Which(lanes=("vitals",)), whole=True)
        plan = await desk.plan(found)
        assert len(plan.ready) == 1
        assert [len(held) for held in plan.held.values()] == [1]
        assert original(plan.held[YOUNG][0].event) == fresh.model_dump_json().encode()
        await desk.redrive(plan.ready, "late")
        site.written["clinical.vitals"] += 1
        await site.write(live)  # the same values, as news: this one alerts
        await site.until_done("vitals", "clinical.vitals")
    scores = {score["patient_id"]: score for score in await site.read("clinical.scores")}
    assert (scores[old.patient_id]["late"], scores[live.patient_id]["late"]) == (True, False)
    assert scores[old.patient_id]["news2"]["total"] >= 7
    raised = {one["patient_id"] for one in await site.read("clinical.alerts") if one.get("kind") == "news2"}
    assert raised == {live.patient_id}


async def test_an_unreadable_set_counts_as_young_until_its_failure_is_history(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    now = datetime.now(UTC)
    future = _ill(1, now).model_copy(update={"observed_at": None})  # no time of its own that could be read
    await _file(site, "vitals", future, failed_at=now - timedelta(minutes=60))
    await _file(site, "vitals", future, offset=1, failed_at=now - timedelta(minutes=67))
    async with desk_of(site.settings) as desk:
        plan = await desk.plan(await desk.find(Which(), whole=True))
    assert [letter.event.original_offset for letter in plan.ready] == [1]
    assert [letter.event.original_offset for letter in plan.held[YOUNG]] == [0]


async def test_an_old_version_of_a_note_never_takes_the_place_of_a_newer_one(kafka: Kafka, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with EmbeddedQdrant(tmp_path / "qdrant", port=port) as store:
        site = Clinic(kafka, tmp_path, vectors=store.url)
        hour = timedelta(hours=1)
        first = note("p", "a", "Productive cough and fever.")
        second = note("p", "a", "Cough, no fever.", version=2, received_at=first.received_at + hour)
        other = note("p", "b", "Walks on the ward.")
        withdrawn = note("p", "c", "Hip fracture.")
        cancel = note("p", "c", "", version=2, status="cancelled", relation="cancel", received_at=first.received_at + hour)
        await site.write(first, other, withdrawn, second, cancel)
        for offset, event in enumerate((first, other, withdrawn)):
            await _file(site, "notes-vectors", event, offset=offset)
        async with site.running("notes-vectors"), desk_of(site.settings) as desk:
            await site.until_done("notes-vectors", "clinical.notes")
            found = await desk.find(Which(), whole=True)
            plan = await desk.plan(found)
            assert [letter.event.original_offset for letter in plan.ready] == [1]
            assert {letter.event.original_offset for letter in plan.held[REPLACED]} == {0, 2}
            # Past the plan, as when the newer version came at that very moment or its record is gone: the lane looks itself.
            one = next(letter for letter in found if letter.event.original_offset == 0)
            await desk.redrive([one, *plan.ready], "past the plan")
            site.written["clinical.notes"] += 2
            await site.until_done("notes-vectors", "clinical.notes")
            versions = {
                point.payload["note_id"]: point.payload["version"] for point in await points(site.settings, NOTES, ["p"])
            }
        assert versions == {note_id("p", "a"): second.id, note_id("p", "b"): other.id}
        words = [
            entry["outcome"]
            for one in await site.read("clinical.audit")
            if one["action"] == "predict"
            for entry in one["entries"]
        ]
        assert words.count("outdated") == 1


async def test_what_no_lane_can_read_takes_no_notes_place(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    good = note("p", "a", "Productive cough and fever.")
    await site.write(good)
    await _file(site, "notes-vectors", good, offset=(await site.records("clinical.notes"))[-1].offset)
    broken = json.dumps({"note_id": good.note_id, "id": natural_id("broken"), "text": 7}).encode()
    await produce(kafka.bootstrap, site.prefix + "clinical.notes", [(b"p", broken)], PARTITIONS)
    async with desk_of(site.settings) as desk:
        plan = await desk.plan(await desk.find(Which(), whole=True))
    assert (len(plan.ready), dict(plan.held)) == (1, {})


async def test_a_context_that_was_replaced_is_held_back(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    day = datetime(2026, 5, 4, tzinfo=UTC)
    contexts: list[PatientEvent] = [bedside.patient(1, day), bedside.patient(2, day)]
    newer = contexts[0].model_copy(update={"id": natural_id("newer"), "encounter_status": "finished"})
    for context in contexts:
        await site.write(context)
        await _file(site, "vitals", context, offset=(await site.records(context.topic))[-1].offset)
    await site.write(newer)
    async with desk_of(site.settings) as desk:
        plan = await desk.plan(await desk.find(Which(), whole=True))
    held = [json.loads(original(letter.event) or b"")["id"] for letter in plan.held[REPLACED]]
    assert held == [contexts[0].id]
    assert len(plan.ready) == 1


# ------------------------------------------------------------------------------------------------------------ at the desk


class At:
    """`vigil dead-letters` as an operator types it."""

    def __init__(self, site: Clinic, folder: Path) -> None:
        self._folder = folder
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "VIGIL_KAFKA__BOOTSTRAP": site.kafka.bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
            "VIGIL_KAFKA__EMBEDDED": str(site.kafka.kind == "embedded").lower(),
        }

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "streams.cli", "dead-letters", *words]
        done = subprocess.run(command, env=self._env, cwd=self._folder, capture_output=True, text=True, timeout=60, input="")
        assert "Traceback" not in done.stderr, done.stderr
        return done


async def test_what_is_held_apart_says_who_sent_it_and_why(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    at = At(site, tmp_path)
    outcome = reader()(vitals(obx("8867-4^Heart rate^LN", "80", "/min", device="MON7"), pid="PID|1"))
    (apart,) = outcome.events
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    await outbox.send([outbox.encode(apart)])
    await outbox.stop()
    listed = (await asyncio.to_thread(at, "list")).stdout
    reason = "PID-3: nobody to file this under: device MON7, bed W1^R2^B3"
    counted, one = (line for line in listed.splitlines() if reason in line)
    assert [cell.strip() for cell in counted.split("│")[1:-1]] == ["connector.hl7", "bedside", "ORU^R01", reason, "1"]
    assert [cell.strip() for cell in one.split("│")[-3:-1]] == ["bedside ORU^R01", reason]
    (facts,) = [json.loads(line) for line in (await asyncio.to_thread(at, "list", "--json")).stdout.splitlines()]
    assert (facts["peer"], facts["message_type"], facts["message"]) == ("bedside", "ORU^R01", reason)
    shown = dict(line.split(maxsplit=1) for line in (await asyncio.to_thread(at, "show", apart.id)).stdout.splitlines()[:14])
    assert (shown["peer"], shown["message"].removeprefix("type").strip()) == ("bedside", reason)
    assert "original" not in shown
    # What a sender has to send again, however much there is of it, leaves the limit to what can be redriven.
    await _file(site, "notes-entities", note("p", "n1", "Cough."))
    planned = (await asyncio.to_thread(at, "redrive", "--all", "--unverified", "--limit", "1", "--dry-run")).stdout
    assert "1 to redrive" in planned
    assert "held back: 1 x from a connector" in planned
    assert "left out" not in planned


async def test_the_command_line_from_list_to_discard(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    at = At(site, tmp_path)
    nothing = await asyncio.to_thread(at, "list")
    assert (nothing.returncode, nothing.stdout.strip()) == (0, "0 dead letters, open")
    for number in range(3):
        await _file(site, "notes-entities", note("p", f"n{number}", PHI + "\x1b[31m"), offset=number)
    await _file(site, "vitals", bedside.patient(1, datetime.now(UTC)))
    said = []

    def run(code: int, *words: str) -> str:
        done = at(*words)
        assert done.returncode == code, done.stdout + done.stderr
        said.append(done.stdout + done.stderr)
        return said[-1]

    def work() -> None:
        listed = run(0, "list", "--lane", "notes-entities")
        assert "3 dead letters, open" in listed
        assert "vitals" not in listed
        letters = [json.loads(line) for line in run(0, "list", "--json").splitlines()]
        assert len(letters) == 4
        # The newest first, and the counts by model too: in a burst that is what one looks for.
        assert [letter["original"].rpartition("/")[2] for letter in letters] == ["0", "2", "1", "0"]
        one, left = run(0, "list", "--json", "--limit", "1").splitlines()
        assert (json.loads(one)["lane"], left) == ("vitals", "left out: 3 older ones (--limit 1)")
        newest = run(0, "list", "--limit", "2")
        assert "the newest 2" in newest
        counted = next(line for line in newest.splitlines() if "notes-entities" in line)
        assert [cell.strip() for cell in counted.split("│")[-3:-1]] == [sha256(b"notes-entities").hexdigest()[:12], "3"]
        assert "no dead letter begins with nonsense" in run(2, "show", "nonsense")
        # One that is right beside one that is wrong: nothing is done.
        assert "no dead letter begins with zzzz" in run(2, "redrive", letters[0]["id"], "zzzz", "--reason", "typo", "--yes")
        assert "0 dead letters, open" in (wrong := run(0, "list", "--lane", "notes-entites"))
        assert "has the lane notes-entites; there are: notes-entities, vitals" in wrong
        one = next(letter["id"] for letter in letters if letter["original"].endswith("/2"))
        assert "The original is not shown" in run(0, "show", one[:13])
        assert "--phi needs a reason" in run(2, "show", one, "--phi")
        assert "which letters?" in run(2, "redrive", "--reason", "all")
        assert "one of the ids is empty" in run(2, "discard", "", "--dry-run", "--reason", "an unset variable")
        assert "one of the models is empty" in run(2, "redrive", "--model", "", "--reason", "an unset variable", "--yes")
        assert "one of the ids is empty" in run(2, "show", "")
        assert "a reason is needed" in run(2, "discard", "--all", "--yes")
        assert "dry run: nothing was done" in run(0, "redrive", "--lane", "notes-entities", "--dry-run")
        # The topic is empty: nobody can tell whether a newer version came.
        assert "held back: 1 x its topic no longer shows" in run(0, "redrive", one, "--reason", "new model", "--yes")
        assert run(1, "redrive", one, "--unverified", "--reason", "nobody answers").count("redriven") == 0
        assert "1 redriven" in run(0, "redrive", one, "--unverified", "--reason", "new model", "--yes")
        assert f"{one} is redriven, by " in run(0, "redrive", one, "--reason", "once more", "--yes")
        assert "left out: 1 newer, for --limit takes the oldest 1" in run(
            0, "discard", "--lane", "notes-entities", "--limit", "1", "--dry-run"
        )
        assert "2 discarded" in run(0, "discard", "--stage", "decode", "--lane", "notes-entities", "--reason", "old", "--yes")
        assert "1 dead letters, open" in run(0, "list")
        assert "4 dead letters" in run(0, "list", "--state", "any")
        hidden = "".join(said)
        for word in (PHI, PHI.split()[1], b64encode(PHI.encode()).decode()[:12]):
            assert word not in hidden
        shown = run(0, "show", one, "--phi", "--reason", "the vendor asks")
        assert PHI in shown
        assert "\x1b" not in shown

    await asyncio.to_thread(work)
    (record,) = await site.records("clinical.notes")
    assert record.value == note("p", "n2", PHI + "\x1b[31m").model_dump_json().encode()
    audit = {one["action"]: one for one in await site.read("clinical.audit")}
    assert set(audit) == {"redrive", "discard", "access"}
    assert {one["agent"] for one in audit.values()} == {getpass.getuser()}
    assert audit["access"]["reason"] == "the vendor asks"
    assert len(audit["discard"]["entries"]) == 2


@pytest.mark.parametrize(
    "words", [("list",), ("show", "2f17"), ("redrive", "--all", "--dry-run"), ("discard", "--all", "--dry-run")]
)
@pytest.mark.real_kafka  # the embedded broker makes what it is asked for
async def test_a_topic_that_is_not_there_is_no_topic_without_letters(
    kafka: Kafka, tmp_path: Path, words: tuple[str, ...]
) -> None:
    site = Clinic(kafka, tmp_path)
    site.prefix = "typo."
    done = await asyncio.to_thread(At(site, tmp_path), *words)
    assert done.returncode == 2
    assert "typo.clinical.dead-letters" in done.stderr and "kafka.topic_prefix" in done.stderr
    assert done.stdout == ""


async def test_nothing_is_shown_that_cannot_be_audited(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    await _file(site, "notes-entities", note("p", "n", PHI))
    async with DeadLetters(site.settings) as desk:
        (letter,) = await desk.find(Which(), whole=True)
        with pytest.raises(Permanent, match="audited"):
            await desk.disclose(letter, "curious")
        with pytest.raises(Permanent, match="audited"):
            await desk.discard([letter], "tidy")
        assert redrive(letter.event, topic="clinical.notes").value is not None
    assert len(await site.records("clinical.dead-letters")) == 1
