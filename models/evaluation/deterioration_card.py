"""The card of a deterioration model: written from its evaluation, so that no figure in it is typed."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.evaluation import deterioration
from models.evaluation.deterioration import SetFigures
from models.evaluation.measures import Metric
from models.evaluation.report import beside, signed
from models.registering import record
from models.registry import WEIGHTS, ModelEntry, Registry
from models.runtimes.deterioration import UNITS
from models.tasks import DeteriorationModel

_WHAT = """\
An LSTM over the last {hours} hours of vital signs, scored anew at every hour or set of observations. It answers with the
calibrated probability that sepsis sets in within {horizon} hours (or has set in), by the label of the set it learned from, as
a general sign of deterioration. Each score comes with what drove it: the score less the score had that vital sign not been
taken.

**What it is not.** It is assistive: it points at change and diagnoses nothing. It is not validated at your site, learned from
intensive care and not from general wards, and learned "sepsis" as a rule over records names it (antibiotics and cultures with
a rise in SOFA), not as a clinician's judgement. It alerts nobody until a site has validated it and turned that on; NEWS2 does.
Not for children, pregnancy, or end-of-life care."""

_INPUTS = """\
{features}, hourly, newest last; NaN where not measured. How long ago a vital sign was measured is an input too. Oxygen and
consciousness count as air and alert where not recorded: the sets record them for the sicker patients, a ward for all."""

_LEARNED = """\
- cinc2019 (PhysioNet/Computing in Cardiology Challenge 2019, training set A, one hospital in the USA, intensive care),
  CC BY 4.0. Label of an hour: the set's SepsisLabel, which is 1 from 6 hours before the onset of sepsis (Sepsis-3: suspicion
  of infection with a SOFA rise of 2 or more) to the end of the record.
- physionet2012 set a (PhysioNet/Computing in Cardiology Challenge 2012, MIMIC-II intensive care, first 48 hours), ODC-BY 1.0.
  A second task: in-hospital death. It teaches what the first set lacks (consciousness) or rarely has (oxygen).
- Targets are softened: trees, cross-fitted by patient, learn the same labels first, and the network learns their log-odds
  beside the labels (`models/training/deterioration.py`).
- Split by patient, by a hash of the id: 25% of cinc2019 never seen (the figures below), the rest learned from. Calibration
  (a slope and an intercept on the log-odds) comes from networks of the same recipe judging patients that they never saw.
  physionet2012 set b was never seen; its label, death, is not what the output is calibrated to."""


_AIM = """\
The aim was a model better than every baseline, with intervals apart on at least one set, and nowhere worse."""

_TRIED = """\
What was tried, and is in what ships: a teacher of trees, cross-fitted by patient, which also knows laboratory values (what lifts
the network above trees on its own inputs); a second task, death; windows thinned as wards chart; averaged weights; calibration by
cross-fitting. A curve over the number of patients learned from has not been drawn. The next step: more patients with an onset (a
second hospital's part of the challenge, wards instead of intensive care), a label of deterioration instead of sepsis by rule, and
calibration on a site's own patients before it may page."""


def against(figures: Sequence[SetFigures]) -> str:
    """Say where a model is not shown to be better than what it was measured beside, and where it is worse: all from the figures."""
    lines, apart, unclear = [_AIM], [], []
    for each in figures:
        for metric in each.metrics[:2]:
            others = metric.baselines.items()
            if all(metric.low > other.high for _, other in others):
                apart.append(f"{metric.name} on {each.name}")
            unclear += [
                f"{metric.name} against {kind} on {each.name}, {signed(gain)}"
                for kind, other in others
                if not (gain := other.baselines["difference"]).low > 0
            ]
    lines.append(f"- Intervals apart from every baseline's: {'; '.join(apart) or 'nowhere'}.")
    lines.append(f"- Not shown to be better, by the paired difference: {'; '.join(unclear) or 'nowhere'}.")
    for each in (each for each in figures if each.hourly):
        found = {metric.name: metric for metric in each.metrics}
        behind = [
            f"{name}, {signed(gain)}"
            for name, metric in found.items()
            if "NEWS2" in metric.baselines
            for gain in (metric.baselines["NEWS2"].baselines["difference"],)
            if (gain.value > 0 if name.startswith("alerts") else gain.value < 0)
        ]
        lines.append(f"- Behind NEWS2 on {each.name}: {'; '.join(behind) or 'nowhere'}.")
        skill = found["Brier skill (over the base rate)"]
        score, rate, _ = each.reliability[-1]
        better = "better" if skill.low > 0 else "not shown to be better"
        lines.append(
            f"- As a probability {better} than the base rate on {each.name}: Brier skill {skill}; the highest tenth of scores says "
            f"{score:.4f} where {rate:.4f} happens."
        )
    return "\n".join([lines[0], "", *lines[1:], "", _TRIED])


def write(entry: ModelEntry, model: DeteriorationModel, figures: Sequence[SetFigures], *, speed: str) -> str:
    """Return the card as Markdown; `speed` is a paragraph."""
    parts = [
        f"# {entry.name} {entry.version}",
        "Written by `python -m models.evaluation.deterioration_card`; do not edit.",
        _WHAT.format(hours=model.hours, horizon=model.horizon_hours),
        f"Licence of the weights: {entry.licence}. Digest: `{model.identity.digest}`.",
        "## Inputs",
        _INPUTS.format(features=", ".join(f"{name} ({unit})" for name, unit in UNITS.items())),
        "## Learned from",
        _LEARNED,
    ]
    for each in figures:
        parts += [f"## Measured on {each.name}", _set(each)]
    parts += ["## Where it does not hold what was wanted", against(figures)]
    rules = (deterioration.__doc__ or "").split("\n\n")
    parts += ["## Rules fixed before looking", "\n".join(line.strip() for line in rules[2].splitlines())]
    parts += ["## Speed", speed]
    return "\n\n".join(parts) + "\n"


def timed(rows_per_second: Mapping[int, float]) -> str:
    """Say how fast a model is."""
    speed = ", ".join(f"{rate:,.0f} windows/s in calls of {rows}" for rows, rate in rows_per_second.items())
    known = "the hours before the newest known to the runtime, as they are within an hour"
    return f"Per second of one core of the machine that took the time, {known}: {speed}."


def _set(each: SetFigures) -> str:
    lines = [
        f"{each.patients:,} patients ({each.positive_patients:,} positive), {each.hours:,} scored hours, "
        f"{100 * each.prevalence:.1f}% positive. 95% intervals, bootstrapped by patient.",
        "",
        "| | model | " + " | ".join(each.metrics[0].baselines) + " |",
        "|---" * (2 + len(each.metrics[0].baselines)) + "|",
    ]
    for metric in each.metrics[:2]:
        lines.append(f"| {metric.name} | {metric} | " + " | ".join(str(other) for other in metric.baselines.values()) + " |")
        gains = [str(other.baselines["difference"]) for other in metric.baselines.values()]
        lines.append(f"| model less baseline, paired | | {' | '.join(gains)} |")
    if rest := each.metrics[2:]:
        lines += ["", "| | model | beside it |", "|---|---|---|"]
        lines += [f"| {metric.name} | {_plain(metric)} | {beside(metric)} |" for metric in rest]
        lines += ["", "| mean score | observed rate | hours |", "|---|---|---|"]
        lines += [f"| {mean:.4f} | {rate:.4f} | {hours:,} |" for mean, rate, hours in each.reliability]
    return "\n".join(lines)


def _plain(metric: Metric) -> str:
    return f"{metric.value:.4f}" if metric.low != metric.low else str(metric)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m models.evaluation.deterioration_card --data DIR [--model NAME] [--json FILE] [--card]`."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluation.deterioration_card")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--card", action="store_true", help="write the card and the registry's figures of a packaged model")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--timed", action="store_true", help="take the time anew; else speed stays as the card has it")
    chosen = parser.parse_args(argv)
    registry = Registry.load()
    entry, model = registry.entry("deterioration", chosen.model), registry.open("deterioration", name=chosen.model)
    folder = WEIGHTS / entry.location
    figures = deterioration.evaluate_all(model, chosen.data, folder, rounds=chosen.rounds)
    before = folder / "card.md"
    if chosen.timed or not before.is_file():
        speed = timed(deterioration.speed(model, deterioration.sample_windows()))
    else:
        speed = before.read_text(encoding="utf-8").split("## Speed\n\n")[-1].rstrip()
    text = write(entry, model, figures, speed=speed)
    sys.stdout.write(text)
    if chosen.json:
        chosen.json.write_text(json.dumps([each.as_json() for each in figures], indent=1) + "\n", encoding="utf-8")
    if chosen.card:
        (folder / "card.md").write_text(text, encoding="utf-8")
        quality = {f"{each.name}: {metric.name}": round(metric.value, 4) for each in figures for metric in each.metrics[:2]}
        record(entry.model_copy(update={"quality": quality}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
