"""`vigil topics`."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.errors import Permanent
from streams.cli import errors
from streams.settings import load

app = typer.Typer(help="The topics on the cluster.", no_args_is_help=True)


@app.command("create")
def create(
    alter: Annotated[
        bool,
        typer.Option("--alter", help="also set what only differs; a shorter retention lets Kafka delete what is older"),
    ] = False,
) -> None:
    """Create the topics that are missing, mend configuration that would lose data or state; may be repeated.

    Configuration that only differs from the settings (a longer retention, say) is shown and left, unless --alter is given.
    """
    from streams import topics

    settings = load()
    if settings.kafka.embedded:
        raise Permanent("the embedded broker has no topic creation call", hint="it makes topics on first use")
    changes = asyncio.run(topics.create(settings, alter=alter))
    table = Table("topic", "done", "detail", title=f"topics at {settings.kafka.bootstrap}")
    for change in changes:
        table.add_row(change.name, change.done, change.detail)
    _show(table)
    if any("left: " in change.detail for change in changes):
        errors.print("what is left loses nothing: set the topics' settings to it, or give --alter to set it to the settings")
    if any(change.done == "differs" for change in changes):
        errors.print(
            "partitions are never added: a patient's records would lie in two. Set topics.partitions (or partitions_of) to what is "
            "there, or make the topic anew while nothing is in it"
        )
        raise typer.Exit(1)


@app.command("list")
def list_topics() -> None:
    """Print the topics that are there, with their partitions."""
    from streams import topics

    settings = load()
    found = asyncio.run(topics.partition_counts(settings))
    table = Table("topic", "partitions", title=f"topics at {settings.kafka.bootstrap}")
    for name, count in found.items():
        table.add_row(settings.kafka.topic_prefix + name, str(count))
    _show(table)


def _show(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    console.print(table)
