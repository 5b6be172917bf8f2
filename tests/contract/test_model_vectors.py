"""Models of other vectors than the store holds: refused before they serve, and what no search finds is told."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, QdrantSettings
from connectors.qdrant.store import Point, VectorStore
from models.errors import Permanent
from models.registering import promote, record
from models.registry import Registry
from streams.checks import _models, points_of_others
from streams.cli.models import app
from streams.cli.search import _tell
from streams.searching import Searcher
from streams.settings import ModelSettings, Settings
from tests import tiny_models as tiny

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
pytestmark = [pytest.mark.qdrant, pytest.mark.timeout(300)]

PATIENT = "p-1"


@pytest.fixture(params=["embedded", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "server":
        server = request.getfixturevalue("qdrant_server")
        yield server.url
        return
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as embedded:
        yield embedded.url


@dataclass
class Desk:
    """A site with two notes in its store, whose registry has a model of the same length and one of another."""

    settings: Settings
    site: Path

    def vigil(self, *arguments: str) -> tuple[int, str]:
        """Run a command of `vigil models`; its exit code or 2, and its words."""
        ran = CliRunner().invoke(app, [*arguments, "--registry", str(self.site), "--no-audit", "--reason", "why"])
        if isinstance(ran.exception, Permanent):
            return 2, f"{ran.exception} {ran.exception.hint}"
        assert ran.exception is None, ran.exception
        return ran.exit_code, " ".join(ran.output.split())


@pytest.fixture
async def desk(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    site, table = tmp_path / "site.toml", np.random.default_rng(7)
    for name, width in (("same", 384), ("other", 6)):
        folder = tiny.embedder_folder(tmp_path / name, table.normal(size=(len(tiny.TOKENS), width)).astype(np.float32))
        entry = tiny.entry_of(folder, name=name, task="embedding", runtime="onnx-text-embedder")
        record(entry, site, serve=False)
    settings = Settings(vectors=QdrantSettings(url=url), models=ModelSettings(registry=site))
    monkeypatch.setattr("streams.cli.models.load", lambda: settings)
    serves = Registry.load(site).open("embedding")
    async with VectorStore(settings.vectors) as store:
        await store.drop(NOTES)
        await store.ensure([NOTES])
        for number, vector in enumerate(serves.embed(["fever at night", "no cough"])):
            payload = {
                "patient_id": PATIENT,
                "note_id": f"n-{number}",
                "passage": "fever",
                "model_digest": serves.identity.digest,
            }
            await store.upsert(NOTES, [Point(f"00000000-0000-0000-0000-{number:012}", vector, payload)])
        yield Desk(settings, site)
        await store.drop(NOTES)


async def in_a_thread(desk: Desk, *arguments: str) -> tuple[int, str]:
    import asyncio

    return await asyncio.to_thread(desk.vigil, *arguments)


async def test_a_model_of_another_length_is_refused_and_the_rebuild_is_named(desk: Desk) -> None:
    before = desk.site.read_bytes()
    for command in (("promote", "embedding", "other"), ("challenge", "other", "--split", "10%")):
        code, said = await in_a_thread(desk, *command)
        assert code == 2 and re.search('holds "text" 384 Cosine; this model needs "text" 6', said), said
        assert "nothing was changed" in said and "vigil replay rebuild notes" in said and "--no-store" in said
        assert desk.site.read_bytes() == before
    assert (await in_a_thread(desk, "challenge", "other", "--shadow"))[0] == 0  # which stores nothing
    code, said = await in_a_thread(desk, "promote", "embedding", "other", "--no-store")
    assert code == 0 and "not found by searches until `vigil replay rebuild notes" in said
    promote("embedding", "same", desk.site)
    code, said = await in_a_thread(desk, "rollback", "embedding")
    assert code == 2 and "other: the collection notes" in said
    assert Registry.load(desk.site).champion("embedding") == "same"


async def test_a_store_that_does_not_answer_is_told_and_asked_no_more_on_request(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = desk.settings.model_copy(update={"vectors": QdrantSettings(url="http://127.0.0.1:9", timeout=2)})
    monkeypatch.setattr("streams.cli.models.load", lambda: away)
    code, said = await in_a_thread(desk, "promote", "embedding", "same")
    assert code == 2 and "whether the vectors of same fit what is stored cannot be told" in said and "--no-store" in said
    for way in ("--no-store", "--unopened"):
        code, said = await in_a_thread(desk, "promote", "embedding", "same", way)
        assert code == 0 and "not asked: whether its vectors fit" in said
        assert (await in_a_thread(desk, "rollback", "embedding", way))[0] == 0


def test_a_search_says_what_it_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    _tell(0, "notes")
    assert capsys.readouterr().err == ""
    _tell(1200, "notes")
    told = "1,200 passages are of another model and were not searched: vigil replay rebuild notes"
    assert told in capsys.readouterr().err


async def test_what_another_model_stored_is_counted_where_no_search_finds_it(desk: Desk) -> None:
    async with Searcher(desk.settings) as searcher:
        assert len(await searcher.search("fever", where={})) == 2
        assert searcher.unsearched == 0
    code, said = await in_a_thread(desk, "promote", "embedding", "same")
    assert code == 0 and "2 points of other models are not found by searches until `vigil replay rebuild notes" in said
    async with Searcher(desk.settings) as searcher:
        assert await searcher.search("fever", where={}) == []
        assert searcher.unsearched == 2
        with pytest.raises(Permanent, match="no notes of p-2 are in the vector store"):  # and none of another model either
            await searcher.search("fever", where={"patient_ids": ("p-2",)})
        with pytest.raises(Permanent, match="this patient's 2 passages are of another model"):
            await searcher.similar(PATIENT)
    model = Registry.load(desk.site).open("embedding")
    assert await points_of_others(desk.settings, "embedding", model) == 2
    (warned,) = [check for check in await _models(desk.settings) if check.what == "collection notes"]
    assert warned.verdict == "warning" and "2 points are of another model" in warned.found and "rebuild notes" in warned.mend
