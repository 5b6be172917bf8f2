"""`vigil topics`."""

import asyncio

import typer
from rich.console import Console
from rich.table import Table

from models.errors import Permanent
from streams.settings import load

app = typer.Typer(help="The topics on the cluster.", no_args_is_help=True)


@app.command("create")
def create() -> None:
    """Create the topics that are missing and mend settings that differ; may be repeated."""
    from streams import topics

    settings = load()
    if settings.kafka.embedded:
        raise Permanent("the embedded broker has no topic creation call", hint="it makes topics on first use")
    changes = asyncio.run(topics.create(settings))
    table = Table("topic", "done", "detail", title=f"topics at {settings.kafka.bootstrap}")
    for change in changes:
        table.add_row(change.name, change.done, change.detail)
    Console().print(table)
    if any(change.done == "differs" for change in changes):
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
    Console().print(table)
