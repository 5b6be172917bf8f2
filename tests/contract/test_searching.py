"""`vigil search` and `similar`: patients by the hospital's number, types by name, what is not there, what is weak."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from connectors.identity import Identities, IdentitySettings
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, QdrantSettings
from connectors.qdrant.store import Point, VectorStore
from models.errors import Permanent
from models.tasks import Floats, ModelIdentity
from processors.events import AuditEvent, Identifier
from streams import cli
from streams.searching import Searcher
from streams.settings import Settings

pytestmark = [pytest.mark.qdrant, pytest.mark.timeout(120)]

NUMBER = "4711-0815"
NURSING, DISCHARGE = ("34746-8", "Nursing"), ("18842-5", "Discharge summary")


class Stub:
    """A model that knows whether a text speaks of fever, and nothing else."""

    identity = ModelIdentity("stub", "1", "d" * 64)

    def embed(self, texts: Sequence[str]) -> Floats:
        rows = np.zeros((len(texts), NOTES.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[0 if "fever" in text else 1] = 1.0
        return rows


class Audited:
    """An outbox that keeps what is audited."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.events: list[AuditEvent] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def audit(self, event: AuditEvent) -> None:
        self.events.append(event)


@pytest.fixture(params=["embedded", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "server":
        yield request.getfixturevalue("qdrant_server").url
        return
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as embedded:
        yield embedded.url


@pytest.fixture
async def settings(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Settings]:
    async def opened(*_: Any) -> Stub:
        return Stub()

    monkeypatch.setattr("streams.searching.open_model", opened)
    identity = IdentitySettings(site_secret=SecretStr("tests: not a secret"), authorities=("HOSP",))
    made = Settings(vectors=QdrantSettings(url=url), identity=identity)
    patient = Identities(identity).patient(Identifier(authority="HOSP", value=NUMBER))
    async with VectorStore(made.vectors) as store:
        await store.drop(NOTES)
        await store.ensure([NOTES])
        for owner, passage, (code, display) in (
            (patient, "fever at night", NURSING),
            ("other", "no complaints", DISCHARGE),
            ("other", "fever settled", DISCHARGE),
        ):
            payload = {
                "patient_id": owner,
                "note_id": passage,
                "passage": passage,
                "type": code,
                "type_display": display,
                "model_digest": Stub.identity.digest,
            }
            await store.upsert(NOTES, [Point(str(uuid.uuid4()), Stub().embed([passage])[0], payload)])
        yield made
        await store.drop(NOTES)


async def vigil(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[str, Audited]:
    """Run a command; its words on both ways out, or what was refused; and what was audited."""
    audited = Audited()
    monkeypatch.setattr("streams.cli.search.load", lambda: settings)
    monkeypatch.setattr("streams.outbox.Outbox", lambda *_, **__: audited)
    if not cli.app.registered_commands[1:]:
        cli._register()
    ran = await asyncio.to_thread(CliRunner().invoke, cli.app, list(words))
    if isinstance(ran.exception, Permanent):
        return f"{ran.exception} {ran.exception.hint}", audited
    assert ran.exception is None, ran.exception
    return ran.output, audited


@pytest.mark.parametrize("number", [NUMBER, f"HOSP|{NUMBER}"])
async def test_the_hospitals_number_finds_the_patient_and_stands_nowhere(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    said, audited = await vigil(settings, monkeypatch, "search", "fever", "--mrn", number, "--json")
    (hit,) = map(orjson.loads, said.splitlines())
    assert hit["passage"] == "fever at night" and hit["patient_id"] != NUMBER
    assert [entry.patient_id for entry in audited.events[0].entries] == [hit["patient_id"]]
    told, more = await vigil(settings, monkeypatch, "similar", "--mrn", number)
    assert "fever settled" in told
    records = "".join(one.model_dump_json() for one in (*audited.events, *more.events))
    assert NUMBER not in records + said + told


async def test_a_patient_of_whom_nothing_is_known_is_said_to_be_unknown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (("search", "fever", "--patient", "nobody"), ("similar", "nobody")):
        said, _ = await vigil(settings, monkeypatch, *words)
        assert said.startswith("no notes of nobody are in the vector store") and "merged" in said
    said, _ = await vigil(settings, monkeypatch, "search", "fever", "--mrn", "99")
    assert "are in the vector store" in said and "99" not in said.split()
    said, _ = await vigil(settings, monkeypatch, "search", "fever", "--patient", "nobody", "--patient", "other")
    assert "fever settled" in said and "nothing of nobody is in the vector store" in said


async def test_where_the_secret_is_the_demos_it_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = settings.model_copy(update={"identity": Settings().identity.model_copy(update={"authorities": ("HOSP",)})})
    said, _ = await vigil(demo, monkeypatch, "search", "fever", "--mrn", NUMBER)
    assert "VIGIL_IDENTITY__SITE_SECRET must be that of the connectors" in said and NUMBER not in said


async def test_similar_wants_one_patient(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (("similar",), ("similar", "other", "--mrn", NUMBER)):
        said, _ = await vigil(settings, monkeypatch, *words)
        assert "which patient?" in said


@pytest.mark.parametrize("name", ["34746-8", "Nursing", "nursing"])
async def test_a_type_by_its_code_or_by_the_name_that_hits_show(settings: Settings, name: str) -> None:
    async with Searcher(settings) as searcher:
        assert [hit["passage"] for hit in await searcher.search("fever", where={"types": (name,)})] == ["fever at night"]
        both = await searcher.search("fever", where={"types": (name, "discharge summary")})
        assert len(both) == 3


async def test_an_unknown_type_says_which_there_are(settings: Settings) -> None:
    async with Searcher(settings) as searcher:
        with pytest.raises(Permanent, match="nothing in notes is of type 'radiology'") as caught:
            await searcher.search("fever", where={"types": ("radiology",)})
    assert caught.value.hint == "there are: 18842-5 Discharge summary, 34746-8 Nursing"


async def test_a_weak_match_is_shown_and_marked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Searcher(settings) as searcher:
        hits = await searcher.search("fever", where={})
    assert [(hit["passage"], hit["weak"]) for hit in hits if hit["patient_id"] == "other"] == [
        ("fever settled", False),
        ("no complaints", True),
    ]
    said, _ = await vigil(settings, monkeypatch, "search", "fever", "--patient", "other")
    (weak,) = [line for line in said.splitlines() if "weak" in line]
    assert "no complaints" in weak
