"""The report: a table for people, JSON for machines."""

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.arena import Row
from tests.kafka import VERSION
from tests.surroundings import commit, machine

COLUMNS = (
    "fault",
    "lane",
    "accepted",
    "lost",
    "duplicated_effects",
    "gone",
    "longest_stall_s",
    "recovered_s",
    "dead_letters",
    "ignored",
    "repeats",
    "compared",
)


def line(row: Row) -> str:
    """One row as a line of a Markdown table."""
    cells = [*(_cell(getattr(row, name)) for name in COLUMNS), seen(row), verdict(row)]
    return "| " + " | ".join(one.replace("|", "/") for one in cells) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items() if number) or "-"
    return "-" if value is None else str(value)


def verdict(row: Row) -> str:
    """Whether the row holds, and if not, why."""
    return "; ".join(row.wrong) or ("holds" if row.good else "BROKEN")


def seen(row: Row) -> str:
    """What an operator saw: the sign that was looked for where it stands, else the first of each kind; the lag always."""
    operator, told = row.operator, []
    for kind in ("log", "metrics"):
        words = [one for one in operator.get(kind, ()) if "alert-" not in one]
        told.append(next((one for one in words if row.sign and re.search(row.sign, one)), words[0] if words else "")[:120])
    if not_ready := operator.get("not_ready_s"):
        words = ", ".join(f"{words[:120]} {seconds:g} s" for words, seconds in not_ready.items())
        told.append(f"not ready for {operator['longest_not_ready_s']:g} s on end ({words})")
    if codes := operator.get("exit_codes"):
        told.append(f"restarted by the supervisor {len(codes)} times")
    told.append(f"lag up to {operator['lag_most']}" if "lag_most" in operator else "")
    return "; ".join(filter(None, told)) or "nothing"


def table(rows: Sequence[Row]) -> str:
    """The whole report in Markdown."""
    head = [*COLUMNS, "what an operator saw", "verdict"]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *map(line, rows)])


@dataclass(frozen=True)
class Run:
    """What one run is about, whatever becomes of its rows."""

    seed: int
    asked: str  # in words: which rows
    chosen: Sequence[str]  # fault/lane of all of these
    matrix: int  # how many rows there are in all
    left_out: dict[str, str] = field(default_factory=dict)  # of those chosen, what cannot be run here: why
    qdrant: str = ""
    commit: str = field(default_factory=commit)  # as it begins
    began: datetime = field(default_factory=lambda: datetime.now(UTC))


def version_of(program: Path) -> str:
    """Return what a server's binary says of its version."""
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def write(file: Path, rows: Sequence[Row], run: Run) -> None:
    """Write the JSON, and the table beside it."""
    _write(file, document(rows, run))


def document(rows: Sequence[Row], run: Run) -> dict[str, Any]:
    """Return the JSON of one run."""
    return {
        "date": run.began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - run.began).total_seconds()),
        "commit": run.commit,
        "commit_at_end": commit(),
        "seed": run.seed,
        "machine": machine(),
        "kafka": VERSION,
        "qdrant": run.qdrant,
        "asked": run.asked,
        "matrix": run.matrix,
        "not_asked": run.matrix - len(run.chosen),
        "left_out": run.left_out,
        "not_run": sorted(set(run.chosen) - set(run.left_out) - {f"{row.fault}/{row.lane}" for row in rows}),
        "rows": [{**asdict(row), "holds": row.good} for row in rows],
    }


class Unlike(ValueError):
    """Parts that make no report together."""


SAME = ("commit", "commit_at_end", "seed", "machine", "kafka", "qdrant")  # of all parts, or they say nothing together
OWN = ("date", "seconds", "asked")  # each part's


def merge(reports: Sequence[Path], file: Path, order: Sequence[str]) -> int:
    """Make one report of those of the parts (`order`: fault/lane of all rows).

    Of a row that was run several times the bad one counts, and the others stand beside it. Raises `Unlike` for parts of different
    code, machines or seeds.
    """
    bodies = [json.loads(report.read_text()) for report in reports]
    for report, body in zip(reports, bodies, strict=True):
        if lacks := [name for name in (*SAME, *OWN, "left_out") if name not in body]:
            raise Unlike(f"{report} does not say its {', '.join(lacks)}: it was written by an earlier version")
        if body["commit"] != body["commit_at_end"]:
            raise Unlike(f"{report}: the code was changed while it ran, from {body['commit']} to {body['commit_at_end']}")
        if differs := [name for name in SAME if body[name] != bodies[0][name]]:
            told = "; ".join(f"{name} {bodies[0][name]} and {body[name]}" for name in differs)
            raise Unlike(f"{reports[0]} and {report} are no parts of one run: {told}")
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for body in bodies:
        for row in body["rows"]:
            runs[_name(row)] += [{**row, "again": []}, *row["again"]]
    told = []
    for name in (*order, *(one for one in runs if one not in order)):
        # Sorting is stable: the first of the bad ones, else the first.
        if of := sorted(runs.get(name, ()), key=lambda row: bool(row["holds"])):
            told.append({**of[0], "again": of[1:]})
    left_out = {name: why for body in bodies for name, why in body["left_out"].items() if name not in runs}
    missing = [name for name in order if name not in runs and name not in left_out]
    whole = {
        "date": min(body["date"] for body in bodies),
        **{name: bodies[0][name] for name in SAME},
        "seconds": sum(body["seconds"] for body in bodies),
        "asked": "; ".join(body["asked"] for body in bodies),
        "parts": [one for body in bodies for one in body.get("parts", [{name: body[name] for name in OWN}])],
        "matrix": len(order),
        "not_asked": 0,
        "left_out": left_out,
        "not_run": missing,
        "rows": told,
    }
    _write(file, whole)
    print(summary(whole))
    return 0 if all(row["holds"] for row in told) and not missing and not left_out else 1


def summary(body: dict[str, Any]) -> str:
    """How many rows hold, and what the number leaves out."""
    rows = body["rows"]
    words = [f"{sum(row['holds'] for row in rows)} of {len(rows)} rows run hold"]
    if again := [row for row in rows if row["again"]]:
        words.append(f"{len(again)} were run more than once, and the worst run of each counts")
    if left_out := body["left_out"]:
        words.append(f"{len(left_out)} left out, for want of {', '.join(sorted(set(left_out.values())))}")
    if unasked := body["not_asked"]:
        words.append(f"{unasked} of the matrix's {body['matrix']} not asked for")
    if missing := body["not_run"]:
        words.append(f"not run: {', '.join(missing)}")
    return "; ".join(words)


def _name(row: dict[str, Any]) -> str:
    return f"{row['fault']}/{row['lane']}"


def _write(file: Path, body: dict[str, Any]) -> None:
    file.write_text(json.dumps(body, indent=2) + "\n")
    file.with_suffix(".md").write_text(page(body))


def page(body: dict[str, Any]) -> str:
    """The report in Markdown."""
    rows = [Row(**{name: value for name, value in row.items() if name != "holds"}) for row in body["rows"]]
    on = body["machine"]
    changed = "" if body["commit"] == body["commit_at_end"] else f", CHANGED MEANWHILE to {body['commit_at_end']}"
    parts = f", in {len(body['parts'])} parts" if "parts" in body else f", {body['asked']}"
    head = (
        f"{body['date'][:10]}, commit {body['commit'] or 'not known'}{changed}, seed {body['seed']}{parts}. "
        f"{on['cores']} cores {on['cpu']}, {on['memory_gb']} GB, {on['system']}; "
        f"Python {on['python']}, Kafka {body['kafka']}, {body['qdrant']}."
    )
    sections = [f"# Fault matrix\n\n{head}\n\n{summary(body)}.\n\n{table(rows)}\n"]
    if body["left_out"]:
        sections.append("## Left out\n\n" + "".join(f"- {name}: needs {why}\n" for name, why in body["left_out"].items()))
    if again := [row for row in rows if row.again]:
        lines = "".join(f"- {row.fault}/{row.lane}: {words}\n" for row in again for words in _runs(row))
        sections.append(f"## Run more than once\n\n{lines}")
    return "\n".join(sections)


def _runs(row: Row) -> list[str]:
    every = [replace(row, again=[]), *(Row(**{k: v for k, v in one.items() if k != "holds"}) for one in row.again)]
    return [f"{verdict(one)} ({one.accepted} accepted, {one.lost} lost, {one.duplicated_effects} doubled)" for one in every]
