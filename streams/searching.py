"""What `vigil search` and `vigil similar` ask: the models and the vector store put together, the access audited by the caller."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, Self

from connectors.qdrant.search import search_images, search_notes, similar_patients
from connectors.qdrant.store import VectorStore, Where
from streams.inference import open_model
from streams.settings import Settings


class Searcher:
    """Opens what a search needs, once. Use as an async context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = VectorStore(settings.vectors)
        self._models: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()

    async def search(self, text: str, *, where: dict[str, Any], images: bool = False, limit: int = 10) -> list[dict[str, Any]]:
        """Return the nearest notes with the passage that matched, or the nearest images, best first."""
        chosen = Where(**where)
        if images:
            found: Any = await search_images(self._store, await self._model("image-text"), text, where=chosen, limit=limit)
        else:
            found = await search_notes(self._store, await self._model("embedding"), text, where=chosen, limit=limit)
        return [_plain(hit) for hit in found]

    async def similar(self, patient: str, *, limit: int = 10) -> list[dict[str, Any]]:
        """Return the patients whose notes resemble this one's, best first."""
        found = await similar_patients(self._store, await self._model("embedding"), patient, limit=limit)
        return [{"patient_id": hit.patient_id, "score": hit.score, **_evidence(hit)} for hit in found]

    async def _model(self, task: str) -> Any:
        if task not in self._models:
            self._models[task] = await open_model(self._settings.models, task)
        return self._models[task]


def _plain(hit: Any) -> dict[str, Any]:
    fields = asdict(hit)
    shown = {name: value for name, value in fields.items() if name not in ("start", "end", "status", "encounter_id", "type")}
    shown["time"] = _minute(fields["time"])
    return {"score": shown.pop("score"), **shown}


def _evidence(hit: Any) -> dict[str, Any]:
    return {"note_id": hit.nearest.note_id, "time": _minute(hit.nearest.time), "passage": hit.nearest.passage}


def _minute(time: datetime | None) -> str:
    return time.isoformat(timespec="minutes") if time else ""
