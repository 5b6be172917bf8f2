"""The report: a table for people, JSON for machines."""

import itertools
import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.arena import Row

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
    "repeats",
)


STAGES = ("starting", "connecting", "waiting for topics", "loading", "joining", "stopping")  # of every start and stop


def line(row: Row) -> str:
    """One row as a line of a Markdown table."""
    cells = [str(getattr(row, name)) if getattr(row, name) is not None else "-" for name in COLUMNS]
    return "| " + " | ".join([*cells, seen(row).replace("|", "/"), "; ".join(row.wrong) or "holds"]) + " |"


def seen(row: Row) -> str:
    """What an operator saw, one of each: the sign that was looked for where it stands, else the first."""
    told = []
    for kind in ("log", "health", "metrics"):
        words = [one for one in row.operator.get(kind, ()) if one not in STAGES and "alert-" not in one]
        told.append(next((one for one in words if row.sign and row.sign in one), words[0] if words else ""))
    if codes := row.operator.get("exit_codes"):
        told.append(f"restarted by the supervisor {len(codes)} times")
    return "; ".join(word[:120] for word in told if word) or "nothing"


def table(rows: list[Row]) -> str:
    """The whole report in Markdown."""
    head = [*COLUMNS, "what an operator saw", "verdict"]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *map(line, rows)])


def write(file: Path, rows: list[Row], seed: int) -> None:
    """Write the JSON, and the table beside it."""
    body = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "seed": seed,
        "rows": [{**asdict(row), "holds": row.good} for row in rows],
    }
    _write(file, body, rows)


def merge(reports: list[Path], file: Path, order: list[str]) -> int:
    """Make one report of the parts' (`order`: fault/lane of all rows); of one that stands in several the bad one counts."""
    bodies = [json.loads(report.read_text()) for report in reports]
    found: dict[str, dict[str, Any]] = {}
    for row in itertools.chain.from_iterable(body["rows"] for body in bodies):
        name = f"{row['fault']}/{row['lane']}"
        if name not in found or not row["holds"]:
            found[name] = row
    told = [found[name] for name in order if name in found]
    rows = [Row(**{name: value for name, value in row.items() if name != "holds"}) for row in told]
    _write(file, {**bodies[0], "side_by_side": len(bodies), "rows": told}, rows)
    missing = [name for name in order if name not in found]
    print(f"{sum(row.good for row in rows)} of {len(rows)} rows hold" + (f"; not run: {', '.join(missing)}" if missing else ""))
    return 0 if all(row.good for row in rows) and not missing else 1


def _write(file: Path, body: dict[str, Any], rows: list[Row]) -> None:
    file.write_text(json.dumps(body, indent=2) + "\n")
    head = f"{body['date']}, {body['machine']}, seed {body['seed']}. {sum(row.good for row in rows)} of {len(rows)} rows hold."
    file.with_suffix(".md").write_text(f"# Fault matrix\n\n{head}\n\n{table(rows)}\n")
