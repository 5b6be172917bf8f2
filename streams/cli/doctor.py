"""`vigil doctor`: checks broker, topics, vector store, object store, models and disk; says what is wrong and how to mend it."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from streams.settings import load


def doctor(
    first_port: Annotated[int, typer.Option(help="processes of `vigil up` on this machine: its --first-port")] = 9101,
) -> None:
    """Check everything that the lanes need, and the lanes themselves; exits 1 when something is wrong."""
    from streams.checks import run_checks

    console = Console()
    bad = 0
    for check in asyncio.run(run_checks(load(), first_port)):
        mark = {"ok": "[green]ok  [/]", "warning": "[yellow]warn[/]", "wrong": "[bold red]bad [/]"}[check.verdict]
        console.print(f"{mark} {check.what}: {escape(check.found)}", highlight=False, soft_wrap=True)
        if check.mend:
            console.print(f"       -> {escape(check.mend)}", highlight=False, soft_wrap=True)
        bad += check.verdict == "wrong"
    if bad:
        raise typer.Exit(1)
