"""`vigil search`, `vigil similar`: looking things up by meaning and words."""

import asyncio
import contextlib
import getpass
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from models.errors import Permanent, Transient
from streams.cli.printing import printable
from streams.leaving import leave_within
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.searching import Searcher

_LONGEST = 300.0  # seconds, the loading of the model included
_PARTS = ("meaning", "words")  # of a note's score
_MRN = "only the patient of this number of the hospital's: 'AUTHORITY|NUMBER', or NUMBER where identity.authorities lists one"


def search(
    text: Annotated[str, typer.Argument(help="what to look for, in words")],
    patient: Annotated[list[str] | None, typer.Option(help="only this patient id; may be repeated")] = None,
    mrn: Annotated[list[str] | None, typer.Option(help=_MRN)] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="only this note type: LOINC, or the name that hits show (nursing)")
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="written at or after")] = None,
    until: Annotated[datetime | None, typer.Option(help="written before")] = None,
    images: Annotated[bool, typer.Option(help="search images instead of notes")] = False,
    test_traffic: Annotated[
        bool, typer.Option("--test-traffic", help="test traffic (MSH-11 T, D) too, marked as such")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per hit")] = False,
) -> None:
    """Search notes by meaning and words (or images by meaning); the passage that matched is shown.

    A note's score is by its passage's meaning (cosine; six tenths of it) and by its words (BM25; 1: the best fit, with every word).
    `weak`: below 0.15, which most notes reach that have nothing to do with the question.
    """
    settings = load()
    where = {
        "patient_ids": (*(patient or ()), *_pseudonyms(settings, mrn or ())),
        "types": tuple(type_ or ()),
        "since": since.astimezone() if since else None,
        "until": until.astimezone() if until else None,
        "production": not test_traffic,
    }
    hits, unsearched, unknown = asyncio.run(_search(settings, text, where, images=images, limit=limit))
    _print(hits, json_)
    _tell(unsearched, "images" if images else "notes")
    for one in unknown:
        _remark(f"nothing of {one} is in the vector store")


def similar(
    patient: Annotated[str, typer.Argument(help="a patient id, as `vigil search` shows it")] = "",
    mrn: Annotated[str, typer.Option(help=_MRN)] = "",
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per hit")] = False,
) -> None:
    """Find patients whose notes resemble this patient's."""
    if bool(patient) == bool(mrn):
        raise Permanent("which patient?", hint="a patient id, or the hospital's own number by --mrn")
    settings = load()
    (chosen,) = _pseudonyms(settings, [mrn]) if mrn else (patient,)
    hits, unsearched = asyncio.run(_similar(settings, chosen, limit))
    _print(hits, json_)
    _tell(unsearched, "notes")


def _pseudonyms(settings: Settings, numbers: Sequence[str]) -> list[str]:
    """Return the patient ids of the hospital's own numbers, as the connectors make them: from here on no number is known."""
    from connectors.identity import Identities

    identities = Identities(settings.identity)
    return [identities.of_number(one) for one in numbers]


async def _search(
    settings: Settings, text: str, where: dict[str, Any], *, images: bool, limit: int
) -> tuple[list[dict[str, Any]], int, tuple[str, ...]]:
    async with _in_time(), _searcher(settings) as searcher:
        hits = await searcher.search(text, where=where, images=images, limit=limit)
        return hits, searcher.unsearched, searcher.unknown


async def _similar(settings: Settings, patient: str, limit: int) -> tuple[list[dict[str, Any]], int]:
    async with _in_time(), _searcher(settings) as searcher:
        return await searcher.similar(patient, limit=limit), searcher.unsearched


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """Give up on a model or store that never answers; a thread that it holds does not keep the process then."""
    try:
        async with asyncio.timeout(_LONGEST):
            yield
    except TimeoutError as error:
        leave_within(5, "the search")
        raise Transient(
            f"the search had no answer within {_LONGEST:.0f} s", hint="`vigil doctor` asks models and stores"
        ) from error
    except asyncio.CancelledError:  # interrupted
        leave_within(5, "the search")
        raise


def _searcher(settings: Settings) -> "Searcher":
    from streams.outbox import Outbox
    from streams.searching import Searcher

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    return Searcher(settings, outbox=outbox, user=getpass.getuser())


def _tell(unsearched: int, collection: str) -> None:
    """Say, beside the hits, what was not looked at."""
    if unsearched:
        what = "images" if collection == "images" else "passages"
        words = (
            f"{unsearched:,} {what} are of another model and were not searched: vigil replay rebuild {collection} --reason ..."
        )
        _remark(words)


def _remark(words: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(words, style="yellow")


def _print(hits: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        import orjson

        for hit in hits:
            print(orjson.dumps(hit).decode())
        return
    if not hits:
        print("nothing found")
        return
    console = Console()
    for rank, hit in enumerate(hits, 1):
        weak = ["weak"] if hit.get("weak") else []
        scores = [f"{hit['score']:.3f}", *weak, *(f"{name} {hit[name]:.2f}" for name in _PARTS if name in hit)]
        facts = [*scores, *(str(hit[name]) for name in hit if name not in ("score", "weak", "passage", *_PARTS) and hit[name])]
        # ids are there to be copied: a line that is too long is not broken
        console.print(Text.assemble((f"{rank:>2}  ", "bold"), printable("  ".join(facts))), soft_wrap=True)
        if hit.get("passage"):
            console.print(Padding(Text(printable(hit["passage"], keep="\n\t"), style="dim"), (0, 0, 1, 4)))
