"""What `vigil search` and `vigil similar` ask: models and vector store put together, each access audited before it is shown."""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Self

from connectors.qdrant.search import search_images, search_notes, similar_patients, types_of, unsearched
from connectors.qdrant.settings import NOTES, CollectionSpec
from connectors.qdrant.settings import images as _images
from connectors.qdrant.store import VectorStore, Where
from models.errors import Permanent
from models.tasks import ModelIdentity
from processors.events import AuditEntry, AuditEvent, ModelRef
from processors.identity import content_hash, natural_id
from processors.words import WEAK
from streams.clock import Clock, real_clock
from streams.inference import open_model
from streams.outbox import Outbox
from streams.settings import DEMO_SECRET, Settings


class Searcher:
    """Opens what a search needs, once. Use as an async context manager.

    With an outbox, what was found is returned only once its audit record is confirmed: an access that cannot be accounted for is
    no access. `user` is who asked, as the site's directory knows them.
    """

    def __init__(self, settings: Settings, *, outbox: Outbox | None = None, user: str = "", clock: Clock = real_clock) -> None:
        self._settings = settings
        self._store = VectorStore(settings.vectors)
        self._models: dict[str, Any] = {}
        self._outbox = outbox
        self._user = user
        self._clock = clock
        self.unsearched = 0  # points that the last search passed over: other models made them
        self.unknown: tuple[str, ...] = ()  # patients that the last search was asked for and the store holds nothing of

    async def __aenter__(self) -> Self:
        if self._outbox is not None:
            await self._outbox.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()
        if self._outbox is not None:
            await self._outbox.stop()

    async def search(self, text: str, *, where: dict[str, Any], images: bool = False, limit: int = 10) -> list[dict[str, Any]]:
        """Return the nearest notes with the passage that matched, or the nearest images, best first.

        Test traffic is left out unless `where` says `production=False`; then it says so in its hits. `types` of `where` may be
        codes or displays. A note's hit is `weak` where so low a score says little (`processors.words.WEAK`).

        Raises `Permanent` where nothing is of a type, or of any of the patients, that is asked for.
        """
        chosen = Where(**{"production": True, **where})
        task = "image-text" if images else "embedding"
        model = await self._model(task)
        collection = _images(model.dimensions) if images else NOTES
        self.unknown = tuple([one for one in chosen.patient_ids if not await self._knows(collection, one)])
        if self.unknown and len(self.unknown) == len(chosen.patient_ids):
            await self._audit(collection.name, text, [], model.identity)
            raise Permanent(
                f"no {collection.name} of {' or '.join(self.unknown)} are in the vector store",
                hint=_why_unknown(self._settings),
            )
        chosen = replace(chosen, types=await types_of(self._store, collection, chosen.types))
        if images:
            found: Any = await search_images(self._store, model, text, where=chosen, limit=limit)
        else:
            found = await search_notes(self._store, model, text, where=chosen, limit=limit)
        await self._audit(collection.name, text, [hit.patient_id for hit in found], model.identity)
        self.unsearched = await unsearched(self._store, collection, chosen, model.identity)
        if images:
            return [_plain(hit) for hit in found]
        return [{**_plain(hit), "weak": hit.score < WEAK} for hit in found]

    async def _knows(self, collection: CollectionSpec, patient: str) -> bool:
        return await self._store.count(collection, Where(patient_ids=(patient,))) > 0

    async def similar(self, patient: str, *, limit: int = 10) -> list[dict[str, Any]]:
        """Return the patients whose notes resemble this one's, best first; test traffic counts as none."""
        model = await self._model("embedding")
        where = Where(production=True)
        try:
            found = await similar_patients(self._store, model, patient, where=where, limit=limit)
        except Permanent:
            theirs = replace(where, patient_ids=(patient,))
            if number := await unsearched(self._store, NOTES, theirs, model.identity):
                raise Permanent(
                    f"this patient's {number:,} passages are of another model than the one that serves",
                    hint="`vigil replay rebuild notes --reason ...` makes them anew",
                ) from None
            if not await self._knows(NOTES, patient):
                raise Permanent(f"no notes of {patient} are in the vector store", hint=_why_unknown(self._settings)) from None
            raise
        self.unsearched = await unsearched(self._store, NOTES, where, model.identity)
        await self._audit("similar", patient, [patient, *(hit.patient_id for hit in found)], model.identity)
        return [{"patient_id": hit.patient_id, "score": hit.score, **_evidence(hit)} for hit in found]

    async def _audit(self, subject: str, asked: str, patients: list[str], model: ModelIdentity) -> None:
        if self._outbox is None:
            return
        # What was asked may name a patient: its digest proves what it was, and tells nobody.
        digest = content_hash(asked.encode())
        at = self._clock()
        request = natural_id("access", self._user, digest, at.isoformat())
        entries = tuple(
            AuditEntry(event_id=request, input_digest=digest, outcome="shown", patient_id=patient)
            for patient in dict.fromkeys(patients)
        )
        event = AuditEvent(
            id=request,
            action="access",
            agent=self._user,
            subject=f"search/{subject}",
            model=ModelRef(name=model.name, version=model.version, digest=model.digest),
            entries=entries,
            recorded_at=at,
        )
        await self._outbox.audit(event)

    async def _model(self, task: str) -> Any:
        if task not in self._models:
            self._models[task] = await open_model(self._settings.models, task)
        return self._models[task]


def _why_unknown(settings: Settings) -> str:
    """Say what may be why nothing is known of a patient."""
    hint = "is it Vigil's patient id, was anything received, and was the record merged into another?"
    if settings.identity.site_secret.get_secret_value() == DEMO_SECRET:
        hint += " The site secret here is the demo's: VIGIL_IDENTITY__SITE_SECRET must be that of the connectors"
    return hint


def _plain(hit: Any) -> dict[str, Any]:
    fields = asdict(hit)
    usual = {"processing": "production", "status": "final"}  # what is so is not said
    left_out = ("start", "end", "encounter_id", "type")
    shown = {name: value for name, value in fields.items() if name not in left_out and usual.get(name) != value}
    shown["time"] = _minute(fields["time"])
    return {"score": shown.pop("score"), **shown}


def _evidence(hit: Any) -> dict[str, Any]:
    return {"note_id": hit.nearest.note_id, "time": _minute(hit.nearest.time), "passage": hit.nearest.passage}


def _minute(time: datetime | None) -> str:
    return time.isoformat(timespec="minutes") if time else ""
