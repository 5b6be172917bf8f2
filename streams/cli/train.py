"""`vigil train`: the trainings that made the shipped weights, on a folder of data. Needs the train extra."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.errors import Permanent

app = typer.Typer(
    help="Train a model on a folder of data; `vigil models evaluate` then measures it. Needs the train extra.",
    no_args_is_help=True,
)

Data = Annotated[Path, typer.Option("--data", help="the folder of data")]
Out = Annotated[Path, typer.Option("--out", help="folder for the weights; never the packaged ones")]
Site = Annotated[Path, typer.Option("--registry", help="the registry file that gets the entry; made if absent")]
Seed = Annotated[int, typer.Option(help="the same seed, data and versions give the same weights")]


@app.command("ner")
def ner(
    data: Data,
    out: Out,
    registry: Site,
    version: Annotated[str, typer.Option(help="version of what is made")] = "1",
    epochs: Annotated[int, typer.Option(min=1)] = 6,
    seed: Seed = 7,
    start: Annotated[Path | None, typer.Option(help="a folder with a BERT to start from; default: all-MiniLM-L6-v2")] = None,
) -> None:
    """Train the entity model on BC5CDR-IOB, NCBI-disease-IOB and maccrobat, keep the best epoch, export it to INT8 ONNX."""
    _ready(data)
    from models.training import ner as training
    from models.training import ner_export

    run = out / "run"
    training.train(data, run, seed=seed, epochs=epochs, start=start)
    entry, _ = ner_export.export(run, data, version=version, out=out, registry=registry, start=start)
    _say(entry.name, entry.version, entry.digest, out)


@app.command("deterioration")
def deterioration(data: Data, out: Out, registry: Site, seed: Seed = 20261123) -> None:
    """Train the deterioration model on cinc2019 and physionet2012 set a, by patient; others stay unseen for measuring."""
    _ready(data)
    from models.training import deterioration as training

    entry = training.ship(data, registry=registry, out=out, seed=seed)
    _say(entry.name, entry.version, entry.digest, out)


@app.command("images")
def images(data: Data, out: Out, registry: Site, seed: Seed = 20261123) -> None:
    """Train the chest X-ray model on images of two classes, by patient; a fifth of the patients stays unseen for measuring."""
    _ready(data)
    from models.training import image_text as training

    entry = training.ship(data, registry=registry, out=out, seed=seed)
    _say(entry.name, entry.version, entry.digest, out)


def _ready(data: Path) -> None:
    if find_spec("torch") is None:
        raise Permanent("training needs torch, which is not installed", hint="pip install 'vigil-stream[train]'")
    if not data.is_dir():
        raise Permanent(f"no such folder: {data}", hint="--data takes a folder of data")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")  # steps and losses


def _say(name: str, version: str, digest: str, out: Path) -> None:
    console = Console(soft_wrap=True)
    console.print(f"{name} {version} {digest} in {out}", highlight=False)
    console.print("`vigil models evaluate` measures it, `vigil models promote` lets it serve", style="dim", highlight=False)
