"""`vigil deliver`: tell people and systems of alerts, one process per receiver."""

import asyncio
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from streams.settings import load

app = typer.Typer(
    help="Tell receivers of alerts: webhooks, HL7 v2 (PCD-04), FHIR. Each has its own consumer group.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="a receiver: NAME of [deliver.NAME] in vigil.toml")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for a machine")]


@app.command("list")
def list_receivers(json: Json = False) -> None:
    """Print the receivers, where they are and which alerts they get."""
    from connectors.deliver.settings import HttpReceiver

    rows = [
        {
            "name": name,
            "kind": own.kind,
            "where": own.url if isinstance(own, HttpReceiver) else f"{own.host}:{own.port}",
            "severities": list(own.severities),
            "wards": list(own.wards),
            "routes": list(own.routes),
            "fallback": own.fallback,
        }
        for name, own in load().deliver.items()
    ]
    if json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table("name", "kind", "where", "severities", "wards", "routes", "fallback")
    for row in rows:
        table.add_row(*(", ".join(value) or "all" if isinstance(value, list) else str(value) for value in row.values()))
    Console().print(table if rows else "No receiver is set up: write [deliver.NAME] into vigil.toml.")


@app.command("run")
def run_delivery(name: Name) -> None:
    """Deliver to one receiver until SIGTERM; exits non-zero when it cannot go on."""
    from streams.delivering import DeliveryJob, lane_name, receiver_settings
    from streams.settings import LaneSettings
    from streams.worker import run

    settings = load()
    receiver_settings(settings, name)
    own = LaneSettings(batch_records=1, nice=0)
    raise typer.Exit(run(settings, lane_name(name), lambda *given: DeliveryJob(name, *given), own))


@app.command("test")
def test_receiver(name: Name, json: Json = False) -> None:
    """Send one alert that is clearly marked as a test and about nobody, and say what the receiver answered.

    Exits 0 when it confirmed, 1 when not. The fallback is not told; nothing is written to Kafka.
    """
    from streams.delivering import receiver_settings, tell_test

    settings = load()
    receiver_settings(settings, name)
    trouble, hint, seconds = asyncio.run(tell_test(settings, name))
    if json:
        print(
            orjson.dumps({"receiver": name, "confirmed": not trouble, "reason": trouble, "seconds": round(seconds, 3)}).decode()
        )
    elif trouble:
        mend = hint or "is it up, and are its address and secret right?"
        Console(stderr=True).print(f"{name} did not confirm: {trouble}\n  {mend}", highlight=False, markup=False)
    else:
        Console().print(f"{name} confirmed a test alert after {seconds * 1000:.0f} ms", highlight=False, markup=False)
    raise typer.Exit(1 if trouble else 0)
