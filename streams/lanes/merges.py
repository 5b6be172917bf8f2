"""patients -> vectors: when two records turn out to be one patient, the vectors follow (HL7 A40 and its kin, FHIR Patient.link).

State, scores and alerts are the vitals lane's; this lane only re-keys points in Qdrant. A link that is undone (A37) moves nothing
back: which points were whose is no longer in the store, and a rebuild from the topics is the honest way:
it re-keys by the merges that stand at its end.

A merge waits until the lanes that write points have committed what was on their topics when the merge came. Embedding is slow and
re-keying is not: else a note that was sent before the merge could be stored after it, under the record that is no more.
"""

from collections.abc import Mapping, Sequence

from connectors.qdrant.settings import NOTES, images
from connectors.qdrant.store import VectorStore
from models.errors import Transient
from models.tasks import ModelIdentity
from processors.events import ImageEvent, NoteEvent, PatientEvent, Source
from streams.lane import Input, Lane, Outcome
from streams.metrics import LaneMetrics
from streams.progress import Mark, Progress
from streams.settings import LaneSettings, Settings
from streams.survivors import Survivors

# lane: the collection that it writes (re-keying asks only for names), from which topic
WRITERS = {
    "notes-vectors": (NOTES, NoteEvent.topic),
    "images": (images(dimensions=0), ImageEvent.topic),
}


class PatientsToVectors(Lane[PatientEvent]):
    """Gives the points of a merged patient to the surviving one."""

    name = "merges"
    kind = PatientEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self._store: VectorStore | None = None
        self._progress = Progress(settings)
        self._survivors = Survivors(settings.kafka)
        # Of merges that wait: made once, or a steady feed would outrun them.
        self._marks: dict[tuple[Source, str], Mark] = {}

    @property
    def config(self) -> LaneSettings:
        """This lane's own settings."""
        return self.settings.lanes.merges

    @property
    def model(self) -> ModelIdentity | None:
        """No model has a part in this."""
        return None

    async def open(self) -> None:
        """Connect to the vector store."""
        if self._store is None:
            self._store = VectorStore(self.settings.vectors)

    async def process(self, inputs: Sequence[Input[PatientEvent]]) -> list[Outcome]:
        """Pick out the merges; every other context is nothing to this lane."""
        return [
            Outcome(effect=(one.event.patient_id, one.event.merged_into), word="merged")
            if one.event.merged_into and one.event.merged_into != one.event.patient_id
            else Outcome(word="no-merge")
            for one in inputs
        ]

    async def store(self, inputs: Sequence[Input[PatientEvent]], outcomes: Sequence[Outcome]) -> None:
        """Re-key: a chain of merges (a into b, b into c) ends at the last, in whichever order they come."""
        assert self._store is not None
        merges = [(one.source, *outcome.effect) for one, outcome in zip(inputs, outcomes, strict=True) if outcome.effect]
        if merges:
            await self._survivors.catch_up()
        follows = self.settings.lanes.merges.follows
        for lane in follows:
            await self._wait(lane, {source: old for source, old, _ in merges})
        # The other lanes make the collections; one that is not there by now holds nothing of the old patient.
        there = [collection for collection, _ in WRITERS.values() if await self._store.exists(collection)]
        for _, old, _ in merges:
            if (survivor := self._survivors.of(old)) != old:  # else it was undone meanwhile
                await self._store.rekey_patient(there, old=old, new=survivor)
        for source, _, _ in merges:
            for lane in follows:
                self._marks.pop((source, lane), None)

    async def _wait(self, lane: str, merged: Mapping[Source, str]) -> None:
        """Raise `Transient` while a lane has not passed what was on its topic when these merges were first seen."""
        unmarked = {source: old for source, old in merged.items() if (source, lane) not in self._marks}
        if unmarked:
            marks = await self._progress.marks(WRITERS[lane][1], unmarked.values())
            self._marks |= {(source, lane): marks[old] for source, old in unmarked.items() if old in marks}
        behind = await self._progress.behind(lane, [self._marks[one, lane] for one in merged if (one, lane) in self._marks])
        if behind:
            raise Transient(
                f"a merge waits for the lane {lane}, which has {behind} earlier records to go",
                hint="a site that does not run it takes it out of `lanes.merges.follows`",
            )

    async def close(self) -> None:
        """Close the connections."""
        if self._store:
            await self._store.close()
