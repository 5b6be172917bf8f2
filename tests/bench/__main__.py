"""`python -m tests.bench stream [--json FILE] [--only NAME] [--quick]`, `... connectors [--json FILE]`, `... profile`."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

RESULTS = Path(__file__).parent / "results"
app = typer.Typer(
    help="Benchmarks on the local Kafka.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.command()
def stream(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the figures to this file, the plot beside it (.png)")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="only these figures; may be repeated")] = None,
    quick: Annotated[
        bool, typer.Option(help="a short form that shows that everything works; its figures mean nothing")
    ] = False,
    rounds: Annotated[int, typer.Option(help="rounds of what is compared; 0: the form's own")] = 0,
    replayed: Annotated[int, typer.Option(min=0, help="notes of the replay under live load; 0: the form's own")] = 0,
    keep: Annotated[bool, typer.Option(help="also keep a full run under tests/bench/results/")] = True,
) -> None:
    """Take every figure: ours and what it is compared with in one run, one after the other."""
    from tests.bench import report
    from tests.bench.figures import FIGURES, Value
    from tests.bench.stage import QUICK, Sizes, running

    console = Console()
    unknown = set(only or ()) - {figure.name for figure in FIGURES}
    if unknown:
        raise typer.BadParameter(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(f.name for f in FIGURES)}")
    chosen = [figure for figure in FIGURES if not only or figure.name in only]
    sizes = QUICK if quick else Sizes()
    sizes = replace(sizes, rounds=rounds or sizes.rounds, replayed_notes=replayed or sizes.replayed_notes)
    around, began = report.Surroundings(), time.monotonic()
    if not quick and around.load_before > 1:
        console.print(f"[yellow]the machine is busy (load {around.load_before:.1f}): absolute figures will be too low[/]")

    def say(words: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:7.1f} s[/]  {words}", highlight=False)

    values: dict[str, Value | str] = {}
    with running(sizes, quick=quick, say=say) as stage:
        for figure in chosen:
            try:
                values[figure.name] = figure.measure(stage)
            except (RuntimeError, TimeoutError, ImportError) as error:
                values[figure.name] = f"{type(error).__name__}: {error}"
                say(f"[red]{figure.name} could not be taken[/]: {error}")
        body = report.document(chosen, values, quick=quick, stores=stage.qdrant_words, around=around)
    report.show(console, chosen, values, quick=quick)
    files = [json_file] if json_file else []
    if keep and not quick and not only:
        files.append(RESULTS / f"stream-{around.began:%Y-%m-%d-%H%M}.json")
    for file in files:
        report.write(file, body)
        try:
            report.plot(file.with_suffix(".png"), chosen, values, body)
        except ImportError:
            console.print("no plot: matplotlib is not installed (extra `bench`)")
    if any(isinstance(value, str) for value in values.values()):
        raise typer.Exit(1)


@app.command()
def connectors(
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
    only: Annotated[list[str] | None, typer.Option(help="only these feeds (mllp, fhir, dicom); may be repeated")] = None,
    quick: Annotated[
        bool, typer.Option(help="a short form that shows that everything works; its figures mean nothing")
    ] = False,
    keep: Annotated[bool, typer.Option(help="also keep a full run under tests/bench/results/")] = True,
) -> None:
    """What is acknowledged a second (which means stored) over MLLP, FHIR and DICOM, beside the plain producer's rate."""
    from tempfile import TemporaryDirectory

    from tests.bench import connectors as bench
    from tests.bench import report
    from tests.kafka import local_kafka

    console, around, began = Console(), report.Surroundings(), time.monotonic()
    if not quick and around.load_before > 1:
        console.print(
            f"[yellow]the machine is busy (load {around.load_before:.1f}): rates will be too low, CPU each less so[/]"
        )
    feeds = only or ["mllp", "fhir", "dicom"]
    if unknown := set(feeds) - {"mllp", "fhir", "dicom"}:
        raise typer.BadParameter(f"no feed {', '.join(sorted(unknown))}; there are mllp, fhir, dicom")

    def say(words: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:7.1f} s[/]  {words}", highlight=False)

    with local_kafka() as kafka, TemporaryDirectory(prefix="vigil-bench-", ignore_cleanup_errors=True) as folder:
        found = bench.measure(kafka.bootstrap, Path(folder), bench.QUICK if quick else bench.Plan(), say, feeds)
    body = report.surrounded(found, quick=quick, around=around)
    files = [json_file] if json_file else []
    if keep and not quick and not only:
        files.append(RESULTS / f"connectors-{around.began:%Y-%m-%d-%H%M}.json")
    for file in files:
        report.write(file, body)


@app.command()
def profile(
    sets: Annotated[int, typer.Option(help="sets to measure")] = 40_000,
    batch: Annotated[int, typer.Option(help="records of one batch at most")] = 1024,
) -> None:
    """What a set of vitals costs, stage by stage."""
    from tests.bench.profile import run
    from tests.kafka import local_kafka

    with local_kafka() as kafka:
        print(json.dumps(asyncio.run(run(kafka.bootstrap, sets=sets, batch=batch)), indent=1))


if __name__ == "__main__":
    app()
