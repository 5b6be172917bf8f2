"""`vigil models reference`: what a model saw and said where it was measured, for the watch over drift."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.errors import Permanent
from streams.cli.evaluate import bars
from streams.settings import load


def reference(
    name: Annotated[str, typer.Argument(help="a model of the registry")],
    data: Annotated[
        Path, typer.Option("--data", help="a folder of data like what it is to see: notes *.txt, or as for evaluate")
    ],
    of: Annotated[
        str, typer.Option("--of", help="what the data are, in words for who reads an alarm; default: the folder")
    ] = "",
    most: Annotated[int, typer.Option(min=100, help="inputs at most; of more, some by chance")] = 2000,
    registry: Annotated[Path | None, typer.Option("--registry", help="a site's registry file; default: the setting")] = None,
) -> None:
    """Count what a model sees and says on a folder of data, as the reference that running lanes compare with.

    It holds histograms alone, no text and no patient, and lies beside the site's registry file (without one: beside the weights),
    under the model's digest. Lanes take it at their next start, or when the registry file names the model anew;
    vigil_drift_psi shows each figure, and a shift is written to the log and the audit.
    """
    from models.drift import places
    from models.evaluation.drift_reference import reference as made
    from models.registering import amend
    from models.registry import PACKAGED, Registry, sha256_of
    from processors.retrieval_quality import passages

    if not data.exists():
        raise Permanent(f"no such folder: {data}", hint="--data takes a folder of data")
    site = registry or load().models.registry
    known = Registry.load(site)
    found = [entry for entry in known.entries() if entry.name == name]
    if len(found) != 1:
        raise Permanent(f"{len(found)} models are called {name!r}", hint="`vigil models list` shows them")
    with bars() as report:
        counted = made(known, found[0], data, most=most, of=of, passages=passages, progress=report)
    path = places(found[0], known.folder(found[0]), site)[0]
    counted.write(path)
    if path.parent == known.folder(found[0]):  # without a site's registry file it is the packaged one's, and sealed there
        amend(found[0], PACKAGED, beside=found[0].beside | {path.name: sha256_of(path)})
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{name}: {len(counted.figures)} figures of {counted.of} in {path}")
