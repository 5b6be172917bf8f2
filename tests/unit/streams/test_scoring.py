"""The deterioration model in the vitals lane: whatever is scored together, each set gets what it would get alone."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from models.drift import Drift, measured, of_windows
from models.registry import Registry
from models.tasks import DeteriorationModel
from processors.charting import Assessment
from streams.journal import Lapse
from streams.metrics import LaneMetrics
from streams.scoring import FAILED, LATE, NOTHING, Retold, Scored, Scoring
from streams.settings import ModelSettings
from tests.bedside import ILL, SOURCE, Ward, vitals
from tests.told import Told


@pytest.fixture(scope="module")
def model() -> DeteriorationModel:
    return Registry.load().open("deterioration")


@pytest.fixture
async def told(model: DeteriorationModel) -> AsyncIterator[tuple[Told, Scoring]]:
    told = Told(model)
    scoring = Scoring(told, ModelSettings(), LaneMetrics("test"))
    yield told, scoring
    await scoring.stop()


def assessed(model: DeteriorationModel, seed: int, sets: int, heart_rate: float = 0) -> list[Assessment]:
    rng = np.random.default_rng(seed)
    windows = rng.normal(60, 30, (sets, model.hours, len(model.features))).astype(np.float32)
    windows[rng.random(windows.shape) < 0.5] = np.nan
    if heart_rate:
        windows[-1, -1, 0] = heart_rate
    return [Assessment(n, vitals(n), SOURCE, None, window=window) for n, window in enumerate(windows)]


def said(scored: Sequence[Scored]) -> list[float]:
    return [deterioration.probability for deterioration, _ in scored if deterioration is not None]


async def test_batches_that_wait_together_are_scored_together_and_as_if_alone(
    model: DeteriorationModel, told: tuple[Told, Scoring]
) -> None:
    asked, scoring = told
    batches = [assessed(model, seed, sets) for seed, sets in enumerate((3, 1, 70, 2, 1))]
    alone = [await scoring.score(batch) for batch in batches]
    asked.rows.clear()
    asked.seconds = 0.05
    together = await asyncio.gather(*(scoring.score(batch) for batch in batches))
    assert together == alone
    assert len(asked.rows) <= 2, "what arrives while the model is busy goes in one run"
    found = [deterioration for scored in together for deterioration, _ in scored if deterioration is not None]
    assert len(found) == 77
    assert any(one.drivers for one in found), "some are of note, and their drivers are those of the right set"
    assert all(bool(one.drivers) <= (one.probability >= ModelSettings().drivers_from - 1e-4) for one in found)


async def test_what_drove_a_score_is_said_where_news2_asks_for_a_response_however_low_it_is(
    model: DeteriorationModel,
) -> None:
    batch = assessed(model, 1, 40)
    batch[3].of_interest = batch[20].of_interest = True
    never = Scoring(model, ModelSettings(drivers_from=1), LaneMetrics("test"))
    scored = await never.score(batch)
    assert [n for n, (found, _) in enumerate(scored) if found is not None and found.drivers] == [3, 20]
    always = Scoring(model, ModelSettings(drivers_from=0), LaneMetrics("test"))
    everything = await always.score(batch)
    assert all(found is not None and found.drivers for found, _ in everything)
    assert [scored[3], scored[20]] == [everything[3], everything[20]]
    await never.stop()
    await always.stop()


async def test_a_patient_who_has_been_ill_for_a_day_is_told_with_what_drives_the_score(told: tuple[Told, Scoring]) -> None:
    """NEWS2 8 hour after hour scores .03 or so: the drivers of all of it were left out."""
    ward, scoring = Ward(), told[1]
    for hour in range(24):
        made = ward.monitor.observe(vitals(60 * hour, ILL), SOURCE)
        ((found, _),) = await scoring.score([made])
        ward.monitor.decide(made, found)
        assert found is not None
        assert 1 <= len(found.drivers) <= 3, (hour, found.probability)


async def test_a_batch_that_the_model_fails_on_spoils_no_other(model: DeteriorationModel, told: tuple[Told, Scoring]) -> None:
    asked, scoring = told
    asked.seconds = 0.02
    good, bad = assessed(model, 1, 4), assessed(model, 2, 3, heart_rate=13)
    first, spoilt, last = await asyncio.gather(scoring.score(good), scoring.score(bad), scoring.score(good))
    assert [reason for _, reason in spoilt] == [FAILED] * 3
    assert len(said(first)) == 4
    assert first == last


async def test_a_single_set_does_not_wait_for_company(model: DeteriorationModel) -> None:
    scoring = Scoring(model, ModelSettings(longest_delay=5.0), LaneMetrics("test"))
    began = time.monotonic()
    assert len(said(await scoring.score(assessed(model, 1, 1)))) == 1
    assert time.monotonic() - began < 2
    await scoring.stop()


async def test_what_is_late_or_has_no_window_says_so(model: DeteriorationModel) -> None:
    told = Told(model)
    told.seconds = 0.3
    scoring = Scoring(told, ModelSettings(vitals_deadline=0.05), LaneMetrics("test"))
    with_window, without = assessed(model, 1, 1)[0], Assessment(1, vitals(1), SOURCE, None)
    assert [reason for _, reason in await scoring.score([with_window, without])] == [LATE, NOTHING]
    await scoring.stop()


async def test_what_was_said_without_the_model_is_said_so_again_and_it_is_not_asked(
    model: DeteriorationModel, told: tuple[Told, Scoring]
) -> None:
    asked, scoring = told
    two = assessed(model, 1, 2)
    scored = await scoring.score(two, [LATE, ""])
    assert ([reason for _, reason in scored], asked.rows) == ([LATE, ""], [1])
    assert scored[1] == (await scoring.score(two[1:]))[0]


async def test_where_the_model_may_have_answered_it_is_waited_for_within_one_budget(model: DeteriorationModel) -> None:
    told = Told(model)
    told.seconds = 1.2
    scoring = Scoring(told, ModelSettings(vitals_deadline=0.05), LaneMetrics("test"), patience=2.0)
    records = [SimpleNamespace(offset=offset) for offset in (7, 8)]
    batch = list(zip(records, assessed(model, 1, 2), strict=True))
    first, last = Retold(scoring, "vitals[0]"), Retold(scoring, "vitals[1]")
    scores, lapse = await first.score(batch, 3, again=True)
    assert ([reason for _, reason in scores], lapse) == (["", ""], None)
    scores, lapse = await last.score(batch, 3, again=True)  # another partition of the same restart: 0.8 s are left
    assert ([reason for _, reason in scores], lapse) == ([LATE, LATE], Lapse(3, 7, 9, LATE))
    await scoring.stop()


async def test_what_is_no_probability_is_no_score(model: DeteriorationModel) -> None:
    """It ended the lane, and the lane that was started again met it again."""
    told = Told(model)
    told.beyond = 1.0001
    scoring = Scoring(told, ModelSettings(), LaneMetrics("test"))
    assert [reason for _, reason in await scoring.score(assessed(model, 1, 2))] == [FAILED] * 2
    await scoring.stop()


async def test_windows_and_scores_are_watched_for_drift_and_a_watch_that_fails_costs_no_score(
    model: DeteriorationModel,
) -> None:
    every = np.concatenate([a.window[None] for a in assessed(model, 1, 400) if a.window is not None])
    shown: dict[str, float] = {}
    alarms: list[str] = []
    drift = Drift(
        measured(of_windows(every, model.features, model.score(every)), "400 windows"),
        window=200,
        publish=lambda figure, index, missing: shown.update({figure: index}),
        alarm=lambda figure, index: alarms.append(figure),
    )
    metrics = LaneMetrics("test")
    scoring = Scoring(model, ModelSettings(), metrics, drift)
    await scoring.score(assessed(model, 2, 200))
    assert set(shown) == {*model.features, "score"} and not alarms
    changed = assessed(model, 3, 200)
    for one in changed:
        assert one.window is not None
        one.window[:, 0] = np.nan  # nobody takes the pulse any more
    await scoring.score(changed)
    assert model.features[0] in alarms and model.features[1] not in alarms
    drift.observe = None  # type: ignore[assignment,method-assign]
    assert len(said(await scoring.score(assessed(model, 2, 3)))) == 3
    await scoring.stop()
