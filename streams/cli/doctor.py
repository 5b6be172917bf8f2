"""`vigil doctor`: checks broker, topics, vector store, object store, models and disk; says what is wrong and how to mend it."""

import asyncio

import typer
from rich.console import Console

from streams.settings import load


def doctor() -> None:
    """Check everything that the lanes need; exits 1 when something is wrong."""
    from streams.checks import run_checks

    console = Console()
    bad = 0
    for check in asyncio.run(run_checks(load())):
        mark = {"ok": "[green]ok  [/]", "warning": "[yellow]warn[/]", "wrong": "[bold red]bad [/]"}[check.verdict]
        console.print(f"{mark} {check.what}: {check.found}", highlight=False)
        if check.mend:
            console.print(f"       -> {check.mend}", highlight=False)
        bad += check.verdict == "wrong"
    if bad:
        raise typer.Exit(1)
