"""The figures: what each is, what it should come to, and how it follows from measurements (which are shared and taken once)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from tests.bench import latency, memory, notes, recovery, replay, searching, vitals
from tests.bench.rate import Rate
from tests.bench.stage import Stage


@dataclass(frozen=True, slots=True)
class Value:
    """One figure's value, with what it was made of."""

    value: float
    of: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """`at_least`: the target is a floor; else a ceiling."""

    name: str
    what: str
    unit: str
    target: float
    at_least: bool
    measure: Callable[[Stage], Value]

    def met(self, value: float) -> bool:
        """Say whether a value meets the target."""
        return value >= self.target if self.at_least else value <= self.target


def _ratio(measured: dict[str, list[Rate]], over: str) -> Value:
    """The median over rounds of (ours / theirs), each round's two taken one after the other."""
    rounds = [ours.per_second / theirs.per_second for ours, theirs in zip(measured["lane"], measured[over], strict=True)]
    return Value(round(median(rounds), 2), {"rounds": [round(one, 2) for one in rounds], **_shown(measured, "lane", over)})


def _shown(measured: dict[str, list[Rate]], *names: str) -> dict[str, list[float]]:
    rates = {f"{name}_per_s": [round(one.per_second, 1) for one in measured[name]] for name in names}
    cpu = {f"{name}_cpu_us_each": [round(one.cpu_us) for one in measured[name]] for name in names if measured[name][0].cpu_us}
    return {**rates, **cpu}


def _sets(stage: Stage) -> Value:
    measured = vitals.throughput(stage)
    return Value(round(median(one.per_second for one in measured["lane"])), _shown(measured, "lane"))


def _alert(name: str) -> Callable[[Stage], Value]:
    def measure(stage: Stage) -> Value:
        found = latency.alerts(stage)[name]
        return Value(round(found.percentile(99), 1), found.summary())

    return measure


def _over_echo(stage: Stage) -> Value:
    found = latency.alerts(stage)
    return Value(round(found["1000"].percentile(99) / found["echo"].percentile(99), 2), {"echo": found["echo"].summary()})


def _searched(stage: Stage) -> Value:
    found = searching.search(stage)
    return Value(next(iter(found.values()))["p99"], found)


def _grown(stage: Stage) -> Value:
    found = memory.growth(stage)
    return Value(max(one["growth_mb"] for one in found.values()), found)


def _recovered(stage: Stage) -> Value:
    rounds = recovery.kills(stage)
    return Value(round(median(one.seconds for one in rounds), 2), recovery.summary(rounds))


def _upgraded(stage: Stage) -> Value:
    found = recovery.rolling(stage)
    if found.lost:
        raise RuntimeError(f"{found.lost} sets have no score")
    return Value(round(float(np.percentile(found.during, 99)), 2), found.summary())


def _replayed(stage: Stage) -> Value:
    found = replay.replayed(stage)
    return Value(found["during"]["p99"], found)


FIGURES = (
    Figure("notes_over_bare_model", "notes lane end to end / the bare model loop", "x", 0.9, True,
           lambda stage: _ratio(notes.entities(stage), "bare")),
    Figure("notes_over_guide", "notes into Qdrant / Faust's guide with sentence-transformers", "x", 3, True,
           lambda stage: _ratio(notes.vectors(stage), "guide")),
    Figure("vitals_sets_per_s", "sets decoded, scored, alerted, audited", "sets/s", 10_000, True, _sets),
    Figure("vitals_over_faust_guide", "the same as Faust's guide teaches it", "x", 5, True,
           lambda stage: _ratio(vitals.throughput(stage), "faust")),
    Figure("vitals_over_quix", "the same as Quix Streams' guide teaches it", "x", 2, True,
           lambda stage: _ratio(vitals.throughput(stage), "quix")),
    Figure("alert_p99_ms_200", "socket to readable alert at 200 sets/s, other lanes saturated", "ms", 100, False, _alert("200")),
    Figure("alert_p99_ms_1000", "the same at 1,000 sets/s", "ms", 100, False, _alert("1000")),
    Figure("alert_p99_over_echo_1000", "the latter / bare aiokafka echo under the same load", "x", 3, False, _over_echo),
    Figure("search_p99_ms_10k", "a question over 10,000 notes, its embedding included", "ms", 50, False, _searched),
    Figure("rss_growth_mb", "memory taken by 100,000 events behind, the worst lane", "MB", 50, False, _grown),
    Figure("recovery_s", "SIGKILL of the vitals worker to the first score of a set written after it, median", "s", 10, False,
           _recovered),
    Figure("live_note_p99_s_during_replay", "a live note to its entities while thousands are replayed", "s", 10, False, _replayed),
    Figure("upgrade_p99_s", "set to score on the log while both vitals workers are restarted in turn; no set may be lost", "s", 10,
           False, _upgraded),
)  # fmt: skip
