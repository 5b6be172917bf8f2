"""`vigil`: the command line. Each group of commands has a module of its own; heavy imports wait until a command needs them."""

import sys
from importlib.metadata import version

import typer
from rich.console import Console
from rich.markup import escape

from models.errors import VigilError

app = typer.Typer(
    name="vigil",
    help="Real-time clinical AI stream processor. Assists, never diagnoses.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local variables would show patient text
    add_completion=False,
)
errors = Console(stderr=True)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    print(version("vigil-stream"))


def _register() -> None:
    from streams.cli import (
        alerts,
        audit,
        check_feed,
        connect,
        dead_letters,
        deliver,
        doctor,
        home,
        models,
        rebuild,
        replay,
        retrain,
        run,
        schemas,
        search,
        settings,
        status,
        topics,
        train,
        travel,
    )

    app.add_typer(run.lanes, name="lane")
    app.command("up")(run.up)
    app.command("serve")(run.serve)
    app.command("demo")(run.demo)
    app.add_typer(topics.app, name="topics")
    app.add_typer(connect.app, name="connect")
    app.add_typer(deliver.app, name="deliver")
    app.add_typer(alerts.app, name="alerts")
    app.add_typer(audit.app, name="audit")
    app.add_typer(dead_letters.app, name="dead-letters")
    replay.app.command("rebuild")(rebuild.rebuild)
    replay.app.command("vitals")(travel.vitals)
    app.add_typer(replay.app, name="replay")
    app.add_typer(models.app, name="models")
    app.add_typer(train.app, name="train")
    app.command("retrain")(retrain.retrain)
    app.add_typer(home.app, name="home")
    app.command("check-feed")(check_feed.check_feed)
    app.command("lag")(status.lag)
    app.command("status")(status.status)
    app.command("doctor")(doctor.doctor)
    app.command("settings")(settings.show)
    app.command("schemas")(schemas.schemas)
    app.command("search")(search.search)
    app.command("similar")(search.similar)


def main() -> None:
    """Run the command line; what is wrong is said in words, with a hint, and the exit code is 2 for a wrong request."""
    _register()
    try:
        app()
    except VigilError as error:
        # Escaped: a partition's number or a TOML table in brackets is no colour.
        errors.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        if error.hint:
            errors.print(f"  {escape(error.hint)}", highlight=False, soft_wrap=True)
        sys.exit(2)
