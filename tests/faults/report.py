"""The report: a table for people, JSON for machines."""

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

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


def line(row: Row) -> str:
    """One row as a line of a Markdown table."""
    cells = [str(getattr(row, name)) if getattr(row, name) is not None else "-" for name in COLUMNS]
    return "| " + " | ".join([*cells, seen(row).replace("|", "/"), "; ".join(row.wrong) or "holds"]) + " |"


def seen(row: Row) -> str:
    """What an operator saw, the first of each."""
    told = [next(iter(row.operator.get(kind, ())), "") for kind in ("log", "health", "metrics")]
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
    file.write_text(json.dumps(body, indent=2) + "\n")
    file.with_suffix(".md").write_text(table(rows) + "\n")
