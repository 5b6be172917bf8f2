"""Running things: one lane, all of it, the connectors, the demo."""

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from models.errors import Permanent
from processors import durations
from streams.settings import load

log = logging.getLogger("vigil.up")

lanes = typer.Typer(help="The lanes, each one Faust app with its own consumer group.", no_args_is_help=True)


@lanes.command("list")
def list_lanes() -> None:
    """Print the lanes' names."""
    from streams.lanes import LANES

    for name in LANES:
        print(name)


@lanes.command("run")
def run_lane(name: Annotated[str, typer.Argument(help="one of `vigil lane list`")]) -> None:
    """Run one worker of one lane until SIGTERM; exits non-zero when it cannot go on."""
    _end_in_words(name)
    from streams.lanes import LANES
    from streams.worker import run

    if name not in LANES:
        raise Permanent(f"there is no lane {name!r}", hint=f"lanes: {', '.join(LANES)}")
    settings = load()
    own = getattr(settings.lanes, name.replace("-", "_"))
    raise typer.Exit(run(settings, name, LANES[name], own))


def _end_in_words(name: str) -> None:
    """Have SIGTERM, until what is started takes it over, end this process with a line and code 0: nothing was taken in yet.

    Importing what a lane needs takes seconds, and tens of them on a busy machine: who stops it then should not read of a signal.
    """

    def end(_: int, __: object) -> None:
        os.write(2, f"{name}: told to stop while it was starting; nothing was taken in\n".encode())
        os._exit(0)

    signal.signal(signal.SIGTERM, end)


def up(
    workers: Annotated[int, typer.Option(help="worker processes of each lane on this machine", min=1)] = 1,
    lane: Annotated[list[str] | None, typer.Option(help="only these lanes; may be repeated")] = None,
    connectors: Annotated[bool, typer.Option(help="also run the connectors (`vigil serve`)")] = True,
    first_port: Annotated[int, typer.Option(help="health ports from here on, the connectors' last; 0: any free ones")] = 9101,
    first_slot: Annotated[int, typer.Option(help="slots from here on; unique per lane and host", min=0)] = 0,
) -> None:
    """Run every lane and every receiver's delivery as its own process, restart what fails.

    With --lane those lanes alone, and no delivery. Workers on other machines join the same groups.
    """
    from connectors.child import command
    from streams.lanes import LANES
    from streams.log import setup_logging
    from streams.supervisor import Child, Supervisor, lane_children

    settings = load()
    setup_logging("up")
    chosen = lane or list(LANES)
    unknown = set(chosen) - set(LANES)
    if unknown:
        raise Permanent(f"there are no lanes {', '.join(sorted(unknown))}", hint=f"lanes: {', '.join(LANES)}")
    children = lane_children(chosen, workers, first_port=first_port, first_slot=first_slot)
    if lane and settings.deliver:
        names = ", ".join(settings.deliver)
        log.info("no delivery is run beside chosen lanes (%s): `vigil deliver run NAME`, or `vigil up` without --lane", names)
    for name in () if lane else settings.deliver:
        port = first_port + len(children) if first_port else 0
        own = {"VIGIL_WORKER__HEALTH_PORT": str(port)}
        children.append(Child(f"deliver-{name}", command("streams.cli", "deliver", "run", name), own))
    if connectors:
        port = first_port + len(children) if first_port else 0
        own = {"VIGIL_WORKER__HEALTH_PORT": str(port)}
        children.append(Child("connectors", command("streams.cli", "serve"), own))
    asyncio.run(Supervisor(children, grace=settings.engine.grace + 10).run())


def serve(
    addresses: Annotated[Path | None, typer.Option(help="write the sockets' addresses as JSON to this file")] = None,
) -> None:
    """Run the connectors: HL7 v2 over MLLP, FHIR over HTTP, DICOM C-STORE; STOW-RS where `connectors.enabled` names it."""
    _end_in_words("connectors")
    from streams.edge import serve as run_edge
    from streams.leaving import leave_within
    from streams.log import setup_logging

    setup_logging("connectors")
    settings = load()
    # A store that never answers holds a thread for ever, and the thread this process.
    asyncio.run(run_edge(settings, addresses, leaving=lambda: leave_within(settings.engine.grace + 20, "connectors")))


def demo(
    for_: Annotated[str, typer.Option("--for", help="how long the ward is played, e.g. 60s, 2m")] = "60s",
    json_file: Annotated[Path | None, typer.Option("--json", help="write the summary to this file")] = None,
    out: Annotated[Path, typer.Option(help="folder that is left to look at")] = Path("demo-out"),
    patients: Annotated[int, typer.Option(help="patients on the ward", min=20, max=200)] = 24,
    hours: Annotated[float, typer.Option(help="hours of ward time played", min=0.5, max=48)] = 6.0,
    seed: Annotated[int, typer.Option(help="another seed is another day on the ward")] = 7,
    bootstrap: Annotated[str, typer.Option(help="a Kafka to use instead of the embedded broker")] = "",
    qdrant: Annotated[str, typer.Option(help="a Qdrant to use instead of the embedded store")] = "",
) -> None:
    """Play a synthetic ward through real sockets, every lane as a process, on an embedded broker and vector store."""
    from streams.demo.run import run
    from streams.demo.stage import DemoPlan

    logging.captureWarnings(True)
    plan = DemoPlan(
        seconds=seconds(for_), out=out, patients=patients, hours=hours, seed=seed, bootstrap=bootstrap, qdrant=qdrant
    )
    raise typer.Exit(asyncio.run(run(plan, json_file)))


def seconds(text: str) -> float:
    """Read a duration, written as in a setting. Raises `Permanent` for none, and for what is not above zero."""
    try:
        found = float(str(durations.seconds(text)))
    except ValueError:
        raise Permanent(f"{text!r} is no duration", hint="write 60s, 2m or 1h") from None
    if not 0 < found <= durations.LONGEST.total_seconds():
        raise Permanent(f"{text!r} is not above zero, or above {durations.LONGEST.days} days", hint="write 60s, 2m or 1h")
    return found
