"""That a site changed its rules is on `clinical.audit`: once for each change, with the settings' names, old and new, by whom."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models.errors import Transient
from processors.events import VitalsEvent
from processors.rules import MonitorRules
from streams import stamp
from streams.cli.audit import app
from streams.configuration import Configuration
from streams.outbox import Outbox
from streams.settings import ModelSettings, Settings, VitalsStateSettings, WorkerSettings
from tests.bedside import WELL, observation
from tests.clinic import ORIGIN, Clinic
from tests.kafka import Kafka
from tests.lanes import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
STRICT = {"medium_total": 4, "silence": {"high": timedelta(minutes=20)}}


def site_of(kafka: Kafka, folder: Path) -> Clinic:
    state = VitalsStateSettings(tick_seconds=0.2, snapshot_seconds=1.0)
    return Clinic(kafka, folder, state=state, models=ModelSettings(vitals_deadline=60))


def ruled(site: Clinic, **fields: Any) -> None:
    """Let the site's settings have these rules from now on, all else as it ships."""
    site.settings = site.settings.model_copy(update={"monitor": MonitorRules.model_validate(fields)})


async def started(site: Clinic) -> None:
    """Start the lane, have it decide something in each partition, and stop it."""
    async with site.running("vitals"):
        await decided(site)


async def decided(site: Clinic, patients: Sequence[str] = ("a", "b", "c", "d")) -> None:
    now = datetime.now(UTC)
    sets = [
        VitalsEvent(
            id=f"set-{one}-{now.timestamp()}",
            patient_id=one,
            observed_at=now,
            received_at=now,
            observations=tuple(observation(name, value) for name, value in WELL.items()),
            origin=ORIGIN,
        )
        for one in patients
    ]
    await site.write(*sets)
    await site.until_done("vitals", VitalsEvent.topic)


async def changes(site: Clinic) -> list[dict[str, Any]]:
    return [one for one in await site.read("clinical.audit") if one["action"] == "configuration-change"]


def told(record: dict[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    return {one["name"]: (one["before"], one["after"]) for one in record["changes"]}


async def test_each_change_of_the_rules_is_told_once(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(kafka, tmp_path)
    await started(site)
    await started(site)  # a restart is no change
    (first,) = await changes(site)
    assert told(first)["monitor.medium_total"] == (None, "5") and "before: not known" in first["reason"]
    assert told(first)["model"][1] != "none"
    ruled(site, **STRICT)
    await started(site)
    await started(site)
    _, second = await changes(site)
    assert told(second) == {"monitor.medium_total": ("5", "4"), "monitor.silence.high": ("PT30M", "PT20M")}
    assert (second["agent"], second["subject"]) == ("vitals@test-0", "lane/vitals")
    assert second["reason"].count("code ") == 2 and second["entries"] == []
    ruled(site)
    await started(site)
    ruled(site, **STRICT)
    await started(site)
    ids = [one["id"] for one in await changes(site)]
    assert len(ids) == len(set(ids)) == 4  # the same change a second time is another
    monkeypatch.setattr(stamp, "_code", lambda: "another")
    await started(site)
    assert [*told((await changes(site))[-1])] == ["code"]


async def test_who_find_a_change_together_or_die_half_way_make_one_record(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        first = Configuration("vitals", site.settings, outbox, "one")
        await first.tell({"a": "1"}, "old", NOW)
        workers = [Configuration("vitals", site.settings, outbox, who) for who in ("one", "two")]
        await asyncio.gather(*(one.tell({"a": "2"}, "new", NOW) for one in workers for _ in range(3)))

        class Dying(Outbox):
            async def append(self, message: Any) -> int:
                raise Transient("killed")

        dying = Dying(site.settings, source="/test")
        await dying.start()
        with pytest.raises(Transient):
            await Configuration("vitals", site.settings, dying, "three").tell({"a": "3"}, "newer", NOW)
        await dying.stop()
        await Configuration("vitals", site.settings, outbox, "three").tell({"a": "3"}, "newer", NOW)
        await first.tell({"a": "1"}, "old", NOW)  # said at its start
    finally:
        await outbox.stop()
    found = {one["id"]: (told(one), one["reason"]) for one in await changes(site)}
    assert [*found.values()] == [
        ({"a": (None, "1")}, next(reason for _, reason in found.values() if reason.startswith("decided by old"))),
        ({"a": ("1", "2")}, "decided by new from now on; before: old"),
        ({"a": ("2", "3")}, "decided by newer from now on; before: new"),
    ]


async def test_a_change_of_many_settings_is_several_records(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    topics = site.settings.topics.model_copy(update={"largest_message_bytes": 20_000})
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        values = {f"monitor.ward_routes.{n}": "a-route" for n in range(200)}
        settings = site.settings.model_copy(update={"topics": topics})
        await Configuration("vitals", settings, outbox, "one").tell(values, "stamp", NOW)
    finally:
        await outbox.stop()
    records = await changes(site)
    assert len(records) > 1 and len({one["id"] for one in records}) == len(records)
    assert {name: after for one in records for name, (_, after) in told(one).items()} == values


async def test_nothing_is_published_before_the_change_is_on_record(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(kafka, tmp_path)
    await started(site)
    ruled(site, **STRICT)
    tries, real, lives = 0, Configuration.tell, asyncio.Event()

    async def refused(self: Configuration, *args: Any) -> None:
        nonlocal tries
        tries += 1
        if not lives.is_set():
            raise Transient("the audit cannot be written")
        await real(self, *args)

    monkeypatch.setattr(Configuration, "tell", refused)
    scores = len(await site.records("clinical.scores"))
    running = asyncio.create_task(started(site))
    await until(lambda: tries >= 6, what="it is tried again and again")
    assert len(await site.records("clinical.scores")) == scores and len(await changes(site)) == 1
    lives.set()
    await running
    assert len(await site.records("clinical.scores")) > scores and len(await changes(site)) == 2


@pytest.mark.real_kafka
async def test_a_group_whose_workers_are_exchanged_one_by_one_tells_it_once(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    old = site.settings
    new = old.model_copy(update={"monitor": MonitorRules.model_validate(STRICT)})

    async def worker(settings: Settings, slot: int) -> AsyncExitStack:
        """Start one beside who is there, and have it decide."""
        site.settings = settings.model_copy(update={"worker": WorkerSettings(host="test", slot=slot)})
        life = AsyncExitStack()
        engine = await life.enter_async_context(site.running("vitals"))
        await until(lambda: bool(engine._workers), within=120, what="it has partitions")
        await decided(site)
        return life

    one = await worker(old, 0)
    two = await worker(old, 1)
    await one.aclose()
    one = await worker(new, 0)
    await two.aclose()
    two = await worker(new, 1)
    await one.aclose()  # its partitions go to the other
    await decided(site)
    await two.aclose()
    assert [len(told(record)) > 2 for record in await changes(site)] == [True, False]


def test_a_change_is_found_by_its_action(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(kafka, tmp_path)

    async def twice() -> None:
        await started(site)
        ruled(site, **STRICT)
        await started(site)

    asyncio.run(twice())
    monkeypatch.setenv("VIGIL_KAFKA__BOOTSTRAP", site.settings.kafka.bootstrap)
    monkeypatch.setenv("VIGIL_KAFKA__TOPIC_PREFIX", site.prefix)
    monkeypatch.setenv("VIGIL_KAFKA__EMBEDDED", str(site.settings.kafka.embedded).lower())
    asked = ["find", "--action", "configuration-change", "--reason", "who changed the rules", "--limit", "1"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0, found.output
    assert "by vitals@test-0  about lane/vitals" in found.output
    assert "monitor.medium_total: 5 -> 4" in found.output
    line = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout.splitlines()[0])
    assert {one["name"] for one in line["changes"]} == {"monitor.medium_total", "monitor.silence.high"}
