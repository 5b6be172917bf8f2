"""The bench's own arithmetic: a wrong measurement is worse than none."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.settings import FhirSettings
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.settings import MllpSettings
from connectors.identity import Identities, IdentitySettings
from models.registry import Registry
from processors.events import AlertEvent, Source, VitalsEvent
from processors.monitor import Monitor
from processors.rules import MonitorRules
from tests.bench import connectors
from tests.bench.figures import FIGURES, Figure, Value
from tests.bench.rate import steady
from tests.bench.report import Surroundings, document, plot
from tests.bench.wardload import STEPS, People, plan, stamped
from tests.edge import identities


def batches(partition: int, first: int, every: int, count: int, size: int) -> list[tuple[int, int, int]]:
    """Batches of `size` outputs each `every` ms, from `first` ms on."""
    return [(partition, first + i * every, size) for i in range(count)]


def test_the_rate_is_that_of_the_time_in_which_everybody_works() -> None:
    # Two partitions at 1,000 outputs/s each; the second begins 5 s late and has twice as much to do, so it ends alone.
    seen = batches(0, 0, 100, 200, 100) + batches(1, 5_000, 100, 400, 100)
    random.Random(1).shuffle(seen)
    rate = steady(seen, after=5.0)
    assert rate.per_second == pytest.approx(2_000, rel=0.02)
    assert rate.seconds == pytest.approx(14.9, abs=0.2)


def test_what_was_written_before_the_backlog_stood_does_not_count() -> None:
    slow_start = batches(0, 0, 1_000, 10, 1)
    assert steady(slow_start + batches(0, 10_000, 100, 100, 50), after=10.0).per_second == pytest.approx(500, rel=0.02)


def test_a_load_too_small_for_a_steady_state_is_measured_whole_without_its_warm_up() -> None:
    seen = [*batches(0, 0, 10, 1, 10), *batches(0, 60_000, 10, 11, 10), (1, 60_001, 10)]
    rate = steady(seen, after=61.0, skip=10)
    assert rate.n == 120
    assert rate.seconds == pytest.approx(60.1)


def test_the_peers_single_rows_are_the_lanes_model() -> None:
    pytest.importorskip("onnx")
    from tests.bench.peers.scoring import SingleRows

    ours, theirs = Registry.load().open("deterioration"), SingleRows()
    rng = np.random.default_rng(1)
    windows = rng.normal(80, 20, (9, ours.hours, len(ours.features))).astype(np.float32)
    windows[rng.random(windows.shape) < 0.6] = np.nan
    singly = [float(theirs.score(window[np.newaxis])[0]) for window in windows]
    np.testing.assert_allclose(singly, ours.score(windows), atol=1e-6)
    drivers = [theirs.attribute(window, score) for window, score in zip(windows, singly, strict=True)]
    np.testing.assert_allclose(drivers, ours.attribute(windows), atol=1e-6)


def test_each_planned_alert_follows_from_its_set_and_none_from_another() -> None:
    people = People(1, 20, b"the site secret of a test")
    now = datetime.now(UTC).replace(microsecond=0)
    monitor, source = Monitor(MonitorRules()), Source(topic="t", partition=0, offset=0, event_id="e")
    for context in people.contexts():
        monitor.patient(context, source)
    monitor.tick(now, source)
    planned = plan(1, patients=20, rate=10, seconds=60)
    assert sum(one.alerts for one in planned) > 30
    for one in planned:
        event = people.event(one, now + timedelta(seconds=one.due))
        monitor.tick(event.received_at, source)
        said = monitor.decide(monitor.observe(event, source), None, "no model here")
        told = [alert for alert in said if isinstance(alert, AlertEvent)]
        assert [alert.observed_at for alert in told] == ([event.observed_at] if one.alerts else [])


def test_a_set_is_stamped_with_the_moment_of_its_sending() -> None:
    people = People(1, 3, b"the site secret of a test")
    at = datetime(2026, 11, 23, 8, 30, 15, 250_000, tzinfo=UTC)
    settings = MllpSettings()
    (peer,) = settings.peers_of("127.0.0.1")
    mapper = Hl7Mapper(settings, Identities(IdentitySettings(site_secret=SecretStr("the site secret of a test"))))
    for one in plan(1, patients=3, rate=3, seconds=1):
        (event,) = [e for e in mapper.handle(stamped(people.message(one), at), peer, at).events if isinstance(e, VitalsEvent)]
        assert (event.patient_id, event.observed_at) == (people.ids[one.patient], at)
        values = {observation.code: observation.value for observation in event.observations}
        assert values["9279-1"] == STEPS[one.step].respiratory_rate


def made_up(figure: Figure) -> Value:
    alerts = {"percentiles": {"50": 4.0, "99": 40.0, "100": 50.0}, "p99": 40.0}
    rates = {f"{name}_per_s": [10.0, 12.0, 11.0] for name in ("lane", "bare", "guide", "faust", "quix")}
    return Value(figure.target * 1.1, {**alerts, **rates, "echo": alerts})


def test_a_report_says_what_was_met_and_what_could_not_be_taken(tmp_path: Path) -> None:
    values: dict[str, Value | str] = {figure.name: made_up(figure) for figure in FIGURES}
    values["notes_over_guide"] = "ImportError: No module named 'torch'"
    body = json.loads(json.dumps(document(FIGURES, values, quick=True, stores="embedded", around=Surroundings())))
    assert body["vitals_sets_per_s"] == pytest.approx(11_000)
    assert body["figures"]["vitals_sets_per_s"]["met"] is True
    assert body["figures"]["alert_p99_ms_1000"]["met"] is False
    assert body["notes_over_guide"] is None
    assert "torch" in body["figures"]["notes_over_guide"]["why_not"]
    pytest.importorskip("matplotlib")
    plot(tmp_path / "figures.png", FIGURES, values, body)
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_connector_bench_sends_is_taken_whole_and_no_two_are_alike() -> None:
    settings = MllpSettings()
    (peer,) = settings.peers_of("127.0.0.1")
    hl7 = Hl7Mapper(settings, identities())
    frames = [*islice(connectors.hl7_messages("t"), 20)]
    outcomes = [hl7.handle(one.strip(b"\x0b\x1c\r"), peer, datetime.now(UTC)) for one in frames]
    assert {(one.verdict, one.code) for one in outcomes} == {("accepted", "AA")}
    sets = [event for one in outcomes for event in one.events if isinstance(event, VitalsEvent)]
    assert len({event.id for event in sets}) == len(sets) == 20
    assert all(len(event.observations) == 4 for event in sets)

    fhir = FhirMapper(FhirSettings(), identities())
    sender = fhir.sender("fhir", datetime.now(UTC))
    for entries, door in ((1, Request("create", "Observation")), (5, Request("bundle"))):
        bodies = [one.partition(b"\r\n\r\n")[2] for one in islice(connectors.fhir_requests("t", "h", entries), 4)]
        answers = [fhir.handle(body, sender, door) for body in bodies]
        assert {one.verdict for one in answers} == {"accepted"}
        assert len({event.id for one in answers for event in one.events}) == sum(len(one.events) for one in answers) >= 4


async def test_the_connector_bench_counts_no_answer_that_is_not_positive() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\x1c\r")
        writer.write(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.6\rMSA|AE|1\r\x1c\r")

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with pytest.raises(connectors.Negative):
            await connectors.Talk(reader, writer, connectors.hl7_messages("t")).mllp()
        writer.close()
