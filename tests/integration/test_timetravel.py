"""Time travel for vitals: a patient's past run again gives the scores of then; what is no longer there is said."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from typer import Typer
from typer.testing import CliRunner

from models.errors import Permanent
from models.registering import record
from models.registry import PACKAGED, Registry
from processors.deterioration import FEATURES
from processors.events import AlertEvent, PatientEvent, VitalsEvent
from processors.identity import natural_id
from processors.rules import MonitorRules
from streams.cli.travel import _print, vitals
from streams.journal import TOPIC as JOURNAL
from streams.outbox import Outbox, partition_of
from streams.replaying import Choice, Pace, Progress, Replays
from streams.scoring import LATE
from streams.settings import ModelSettings, VitalsStateSettings
from streams.timetravel import Asked, Other, TimeTravel, Travel
from tests.bedside import ILL, WELL, observation
from tests.clinic import ORIGIN, PARTITIONS, Clinic
from tests.kafka import Kafka, delete_records

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

STATE = VitalsStateSettings(tick_seconds=0.2, snapshot_seconds=1.0)
PATIENT, OTHERS = "patient-a", ("patient-b", "patient-c", "patient-d")
HYPERCAPNIC = {**WELL, "spo2": 89, "flow": 0}  # scale 1: three points; scale 2: none
WRITTEN = ("clinical.vitals", "clinical.patients", "clinical.scores", "clinical.alerts", "vigil.vitals.journal")


def context(patient: str, at: datetime, number: int = 0, **fields: Any) -> PatientEvent:
    return PatientEvent(
        **{
            "id": natural_id("context", patient, number),
            "patient_id": patient,
            "birth_date": "1950-01-01",
            "encounter_status": "in-progress",
            "effective_at": at,
            "received_at": at,
            "origin": ORIGIN,
            **fields,
        }
    )


def charted(patient: str, at: datetime, values: dict[str, Any], number: int) -> VitalsEvent:
    return VitalsEvent(
        id=natural_id("set", patient, number),
        patient_id=patient,
        observed_at=at,
        received_at=datetime.now(UTC),
        observations=tuple(observation(name, value) for name, value in values.items()),
        origin=ORIGIN,
    )


def site_of(kafka: Kafka, folder: Path) -> Clinic:
    # A score that was late in one run and not in the other could not be compared.
    return Clinic(kafka, folder, state=STATE, models=ModelSettings(vitals_deadline=60))


async def day(site: Clinic, start: datetime) -> None:
    """The patient is put on SpO2 scale 2 in the middle of it; some values are charted alone, one set long after the rest."""
    number = 0

    async def chart(values: dict[str, Any], *, minutes: int, patients: Sequence[str] = (PATIENT, *OTHERS)) -> None:
        nonlocal number
        number += 1
        await site.write(*(charted(one, start + timedelta(minutes=minutes), values, number) for one in patients))
        await site.until_done("vitals", VitalsEvent.topic)

    async with site.running("vitals"):
        await site.write(*(context(one, start) for one in (PATIENT, *OTHERS)))
        await site.until_done("vitals", PatientEvent.topic)
        await chart(WELL, minutes=1)
        await chart(HYPERCAPNIC, minutes=6)
        await site.write(context(PATIENT, start, 1, spo2_scale=2, spo2_scale_decided_by="dr-7"))
        await site.until_done("vitals", PatientEvent.topic)
        await chart(HYPERCAPNIC, minutes=11)
        await chart({"hr": 140}, minutes=16)  # the rest is carried forward
        await chart(ILL, minutes=21)
        await chart(WELL, minutes=-300, patients=(PATIENT,))
    async with site.running("vitals"):  # restored from its snapshots
        await chart({"hr": 90}, minutes=26)


@pytest.fixture(scope="module")
def past(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> tuple[Clinic, datetime]:
    """A day that is over, for tests that only look at it."""
    site, start = site_of(kafka, tmp_path_factory.mktemp("past")), datetime.now(UTC) - timedelta(minutes=30)
    asyncio.run(day(site, start))
    return site, start


async def travelled(
    site: Clinic, start: datetime, patient: str = PATIENT, *, hours: float = 1.0, other: Other | None = None
) -> Travel:
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        asked = Asked(patient, start, start + timedelta(hours=hours), "a complaint")
        return await TimeTravel(site.settings, outbox, user="ops-7", other=other).go(asked)
    finally:
        await outbox.stop()


def raised(found: Travel) -> set[tuple[str, bool]]:
    """The kinds of alerts that were raised, and whether they are raised now as they were then."""
    return {(step.said.kind, step.equal) for step in found.alerts if step.said.state == "raised"}


async def test_a_day_gives_the_scores_and_alerts_of_that_day(past: tuple[Clinic, datetime]) -> None:
    site, start = past
    before = [await site.records(topic) for topic in WRITTEN]
    found = await travelled(site, start)
    assert [(row.equal, row.differs) for row in found.rows] == [(True, ())] * 6
    (note,) = found.notes  # the hour is not over
    assert note.startswith("the vitals lane has decided up to ") and found.equal
    totals = [row.score.news2.total if row.score.news2 else None for row in found.rows]
    assert totals[1] == 3 and totals[2] == 0  # scale 1, then scale 2: the state as it was
    assert all(row.score.deterioration is not None for row in found.rows)
    assert raised(found) == {("news2", True)}
    assert all(step.equal for step in found.alerts)
    (late,) = (await travelled(site, start - timedelta(hours=6), hours=2)).rows
    assert (late.equal, late.score.late) == (True, True)
    assert (await travelled(site, start, "nobody")).rows == []
    assert [await site.records(topic) for topic in WRITTEN] == before
    audit = [one for one in await site.read("clinical.audit") if one["action"] == "access"][:3]
    assert [(one["agent"], one["subject"], one["entries"][0]["patient_id"]) for one in audit] == [
        ("ops-7", VitalsEvent.topic, PATIENT), ("ops-7", VitalsEvent.topic, PATIENT), ("ops-7", VitalsEvent.topic, "nobody"),
    ]  # fmt: skip
    assert audit[0]["reason"].endswith("; a complaint")
    with pytest.raises(Permanent, match="from when until when"):
        Asked(PATIENT, start, start, "why")
    with pytest.raises(Permanent, match="a reason is needed"):
        Asked(PATIENT, start, start + timedelta(hours=1), " ")


async def test_where_the_model_was_late_it_is_late_again(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path, state=STATE, models=ModelSettings(vitals_deadline=1e-9))
    start = datetime.now(UTC) - timedelta(minutes=30)
    async with site.running("vitals"):
        await site.write(context(PATIENT, start))
        await site.until_done("vitals", PatientEvent.topic)
        await site.write(
            charted(PATIENT, start + timedelta(minutes=5), WELL, 1), charted(PATIENT, start + timedelta(minutes=9), ILL, 2)
        )
        await site.until_done("vitals", VitalsEvent.topic)
    found = await travelled(site, start)
    assert [(row.equal, row.score.deterioration_reason) for row in found.rows] == [(True, LATE)] * 2


async def test_other_rules_and_another_model_tell_what_would_have_been_said(
    past: tuple[Clinic, datetime], tmp_path: Path
) -> None:
    site, start = past
    rules, registry = tmp_path / "strict.toml", tmp_path / "registry.toml"
    rules.write_text('[monitor]\nstaleness = "PT2M"\n')
    champion = Registry.load().entry("deterioration", Registry.load().champion("deterioration"))
    location = str(PACKAGED.parent / "weights" / champion.location)
    record(champion.model_copy(update={"name": "trial", "version": "9", "location": location}), registry)
    strict = await travelled(site, start, other=Other(rules=rules))
    assert {row.differs[0] for row in strict.rows if not row.equal} == {"late"}
    assert {row.why for row in strict.rows if not row.equal} == {("asked with other rules strict.toml",)}
    # What is late never alerts: what was raised would not have been.
    assert raised(strict) == {("news2", False)}
    assert all(step.now is None for step in strict.alerts if step.said.state == "raised")
    trial = await travelled(site, start, other=Other(registry=registry))
    assert trial.model == "trial@9"
    assert {row.differs for row in trial.rows} == {("deterioration",)}
    assert all(row.why[0].endswith("trial@9 now") for row in trial.rows)
    audit = [one["reason"] for one in await site.read("clinical.audit") if one["action"] == "access"][-2:]
    assert ["rules strict.toml" in audit[0], "registry registry.toml" in audit[1]] == [True, True]
    rules.write_text("[monitor]\nstaleness = 7\nstalenes = 3\n")
    with pytest.raises(Permanent, match=r"rules in .*stalenes: "):
        await travelled(site, start, other=Other(rules=rules))
    for other in (Other(rules=tmp_path / "none"), Other(registry=tmp_path / "none")):
        with pytest.raises(Permanent, match="none"):
            await travelled(site, start, other=other)


async def test_rules_that_changed_since_and_scores_that_are_missing_are_told(past: tuple[Clinic, datetime]) -> None:
    site, start = past
    changed = site.settings.model_copy(update={"monitor": MonitorRules(staleness=timedelta(minutes=2))})
    outbox = Outbox(changed, source="/test")
    await outbox.start()
    asked = Asked(PATIENT, start, start + timedelta(hours=1), "why")
    found = await TimeTravel(changed, outbox, user="ops-7").go(asked)
    await outbox.stop()
    (why,) = {why for row in found.rows if not row.equal for why in row.why}
    assert why.endswith("it was decided by something else: monitor.staleness PT1H then, PT2M here") and why in found.notes
    await site.write(charted(OTHERS[0], start + timedelta(minutes=28), WELL, 99))  # no lane runs that would score it
    (missing,) = (await travelled(site, start + timedelta(minutes=27), OTHERS[0], hours=1 / 20)).rows
    assert missing.differs == ("missing",)


async def test_what_the_lane_has_yet_to_decide_is_not_compared(past: tuple[Clinic, datetime], monkeypatch: Any) -> None:
    site, start = past
    number = partition_of(PATIENT.encode(), PARTITIONS)
    entries = [json.loads(one.value) for one in await site.records(JOURNAL) if one.partition == number and one.value]
    last = max(datetime.fromisoformat(one["now"]) for one in entries if one["kind"] == "entry" and one["now"])
    heard = []
    hears = Asked.hears

    def listen(self: Asked, event: AlertEvent) -> bool:
        heard.append(min(self.until, self.heard or self.until))
        return hears(self, event)

    monkeypatch.setattr(Asked, "hears", listen)  # the real one, looked at
    found = await travelled(site, start, hours=24)
    assert (set(heard), found.equal) == ({last}, True)
    assert (
        found.notes[-1] == f"the vitals lane has decided up to {last:%Y-%m-%d %H:%M:%S} UTC: what comes later is not compared"
    )
    with pytest.raises(Permanent, match="nothing of that time is decided yet"):
        await travelled(site, datetime.now(UTC) + timedelta(hours=1))


async def test_without_the_journal_the_order_of_writing_is_taken_and_told(
    past: tuple[Clinic, datetime], kafka: Kafka, tmp_path: Path
) -> None:
    (site, start), copy = past, site_of(kafka, tmp_path)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    for topic in ("clinical.vitals", "clinical.patients", "clinical.scores"):
        for one in await site.records(topic):
            await producer.send_and_wait(
                copy.prefix + topic, one.value, one.key, one.partition, one.timestamp, headers=list(one.headers)
            )
    await producer.stop()
    found = await travelled(copy, start)
    assert [row.equal for row in found.rows] == [True] * 6
    note, unknown, cut = found.notes
    assert unknown.startswith("by which rules and version it was decided then is not known")
    assert cut.startswith("the vitals lane has decided up to ")
    assert note.startswith("there is no journal yet")


@pytest.mark.real_kafka
async def test_a_journal_that_was_lost_is_told_and_not_taken_for_a_change_of_rules(kafka: Kafka, tmp_path: Path) -> None:
    site, start = site_of(kafka, tmp_path), datetime.now(UTC) - timedelta(minutes=30)
    await day(site, start)
    await asyncio.to_thread(kafka.make_anew, site.prefix + JOURNAL, PARTITIONS)
    async with site.running("vitals"):
        await site.write(charted(PATIENT, start + timedelta(minutes=29), {"hr": 91}, 99))
        await site.until_done("vitals", VitalsEvent.topic)
    found = await travelled(site, start)
    assert len(found.rows) == 7
    assert [note for note in found.notes if note.startswith("the journal begins at offset ")]
    assert all(row.score.news2 is not None for row in found.rows), "the contexts of before are known, and so the age"
    assert not [why for row in found.rows for why in row.why if "something else" in why]


async def test_what_was_decided_by_other_rules_names_them_and_the_rest_does_not(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    ships, start = site.settings, datetime.now(UTC) - timedelta(minutes=30)
    strict = ships.model_copy(update={"monitor": MonitorRules(staleness=timedelta(minutes=2), ward_routes={"A": "a-team"})})
    for number, settings in enumerate((ships, strict, ships)):
        site.settings = settings
        async with site.running("vitals"):
            if number == 0:
                await site.write(*(context(one, start) for one in (PATIENT, *OTHERS)))
                await site.until_done("vitals", PatientEvent.topic)
            await site.write(charted(PATIENT, start + timedelta(minutes=5 * number), WELL, number))
            await site.until_done("vitals", VitalsEvent.topic)
    found = await travelled(site, start)
    assert [row.differs for row in found.rows] == [(), ("late", "flags"), ()]
    (why,) = found.rows[1].why
    assert " until " in why and why.endswith(
        ": monitor.staleness PT2M then, PT1H here, monitor.ward_routes.A a-team then, none here"
    )
    assert [note for note in found.notes if "something else" in note] == [why]


@pytest.mark.real_kafka
async def test_what_retention_has_taken_is_told(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    start = datetime.now(UTC) - timedelta(minutes=30)
    await day(site, start)
    number = partition_of(PATIENT.encode(), PARTITIONS)
    mine = [one for one in await site.records("clinical.vitals") if one.key == PATIENT.encode()]
    # All up to the set of which the next one carries the values forward.
    await delete_records(kafka.bootstrap, site.prefix + "clinical.vitals", {number: mine[3].offset})
    found = await travelled(site, start)
    assert [note for note in found.notes if note.startswith(f"retention has taken the first {mine[3].offset} vitals")]
    carried = found.rows[0]
    assert len(found.rows) == 3 and "news2" in carried.differs
    assert any(why.startswith("retention") for why in carried.why)


async def test_a_set_that_came_again_is_held_against_its_own_score(
    kafka: Kafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thirty hours, as an interface engine gives them when it is back: more than the lane keeps of the patient."""
    site, start, choice = site_of(kafka, tmp_path), datetime.now(UTC) - timedelta(hours=32), Choice(topic=VitalsEvent.topic)
    course = [{**WELL, "hr": 70 + 2 * number, "spo2": 98 - number // 12} for number in range(60)]
    sets = [charted(PATIENT, start + timedelta(minutes=30 * number), values, number) for number, values in enumerate(course)]
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    replays = Replays(site.settings, outbox, "ops-7")

    async def replay(*, rescore: bool) -> int:
        plan = await replays.plan(await replays.choose(choice, limit=100), rescore=rescore)
        written = await replays.run(plan.ready, choice, "again", pace=Pace(), progress=Progress.open(None, choice))
        site.written[VitalsEvent.topic] += written
        await site.until_done("vitals", VitalsEvent.topic)
        return written

    async with site.running("vitals"):
        await site.write(context(PATIENT, start))
        await site.until_done("vitals", PatientEvent.topic)
        await site.write(*sets)
        await site.until_done("vitals", VitalsEvent.topic)
        scores = await site.read("clinical.scores")
        assert await replay(rescore=False) == 0
        assert await site.read("clinical.scores") == scores
        assert await replay(rescore=True) == len(sets)
    await outbox.stop()
    again = (await site.read("clinical.scores"))[len(scores) :]
    then = {one["id"]: one for one in scores}
    assert len(again) == len(sets)  # forgotten by their ids; the newest by the copies before them
    # Why they are held back: the model's answer is another one.
    assert [one["news2"] == then[one["id"]]["news2"] for one in again] == [True] * len(sets)
    assert [one for one in again if one["deterioration"] != then[one["id"]]["deterioration"]]
    found = await travelled(site, start, hours=32)
    assert found.equal and len(found.rows) == len(sets) + len(again)
    assert [row.copy_of for row in found.rows] == [None] * len(sets) + list(range(len(again)))
    assert [note for note in found.notes if note.startswith(f"{len(again)} of these scores are of copies")]
    _print(found)
    said = capsys.readouterr().out
    assert (
        "replay or redrive of offset 3: equal" in said and f"120 of 120 equal what was published ({len(again)} of them" in said
    )
    # The originals' own scores are gone, and the copies' stand under their ids.
    gone, newest = site_of(kafka, tmp_path), [one for one in await site.records("clinical.scores") if one.value]
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    for topic in WRITTEN:
        for one in newest[len(scores) :] if topic == "clinical.scores" else await site.records(topic):
            await producer.send_and_wait(
                gone.prefix + topic, one.value, one.key, one.partition, one.timestamp, headers=list(one.headers)
            )
    await producer.stop()
    rows = (await travelled(gone, start, hours=32)).rows[: len(again)]
    told = {why for row in rows if not row.equal for why in row.why}
    assert told and all(why.startswith("what stands is of a copy, by a replay or redrive (offset ") for why in told)


async def test_the_command_line(past: tuple[Clinic, datetime], tmp_path: Path) -> None:
    site, start = past
    env = {
        "VIGIL_KAFKA__BOOTSTRAP": site.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(site.kafka.kind == "embedded").lower(),
    }
    app = Typer()
    app.command()(vitals)

    def vigil(code: int, *words: str) -> str:
        done = CliRunner().invoke(app, [*words], env=env)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    def work() -> None:
        here = datetime.now().astimezone().tzinfo
        times = [f"{at.astimezone(here):%Y-%m-%dT%H:%M:%S}" for at in (start, start + timedelta(hours=1))]
        asked = ("--from", times[0], "--until", times[1], "--reason", "a complaint")
        report = tmp_path / "report"
        with pytest.raises(Permanent, match="a reason is needed"):
            vigil(2, "--patient", PATIENT, "--from", times[0], "--until", times[1])
        printed = vigil(0, "--patient", PATIENT, *asked, "--json", "--report", str(report))
        told, *rows = (json.loads(line) for line in printed.splitlines())
        # The lane was told of half an hour within seconds, as by a queue that drains: only what it came to was raised.
        assert (told["scores"], told["equal"], told["alerts_raised"], told["alerts_raised_then"]) == (6, 6, 1, 1)
        assert len(rows) == 6 + told["alert_steps"]
        assert all(row["score"]["id"] == row["published"]["id"] for row in rows[:6])
        assert (report.read_text(), report.stat().st_mode & 0o077) == (printed, 0)
        assert not any(row["hours"] for row in rows[:6])
        _, *closer = (json.loads(line) for line in vigil(0, "--patient", PATIENT, *asked, "--json", "--hours").splitlines())
        assert [row["score"] for row in closer[:6]] == [row["score"] for row in rows[:6]]
        ill = closer[4]
        effects = [one["effect"] for one in ill["hours"]]
        assert max(effects) > 0 and effects == sorted(effects, key=lambda effect: -abs(effect))
        assert {one["name"] for one in ill["hours"]} <= set(FEATURES) and all(
            0 <= one["hours_ago"] < 24 for one in ill["hours"]
        )
        assert " h before: " in vigil(0, "--patient", PATIENT, *asked, "--hours")
        rules = tmp_path / "strict.toml"
        rules.write_text('staleness = "PT2M"\n')
        said = vigil(1, "--patient", PATIENT, *asked, "--rules", str(rules))
        assert "6 equal what was published" in said and "not now" in said
        assert "0 of 0 equal" in vigil(1, "--patient", "nobody", *asked)
        with pytest.raises(Permanent, match="from when until when"):
            vigil(2, "--patient", PATIENT, "--from", times[1], "--until", times[0], "--reason", "why")
        audits = len(asyncio.run(site.read("clinical.audit")))
        with pytest.raises(Permanent, match="cannot be written"):
            vigil(2, "--patient", PATIENT, *asked, "--report", str(tmp_path))
        assert len(asyncio.run(site.read("clinical.audit"))) == audits  # refused before anything was looked at

    await asyncio.to_thread(work)
