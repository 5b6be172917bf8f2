"""patients -> vectors: when two records turn out to be one patient, the vectors follow (HL7 A40 and its kin, FHIR Patient.link).

State, scores and alerts are the vitals lane's; this lane only re-keys points in Qdrant. A link that is undone (A37) moves nothing
back: which points were whose is no longer in the store, and a rebuild from the topics is the honest way.
"""

from collections.abc import Sequence

from connectors.qdrant.settings import NOTES, images
from connectors.qdrant.store import VectorStore
from models.tasks import ModelIdentity
from processors.events import PatientEvent
from streams.lane import Input, Lane, Outcome
from streams.metrics import LaneMetrics
from streams.settings import LaneSettings, Settings

COLLECTIONS = (NOTES, images(dimensions=0))  # re-keying asks only for names


class PatientsToVectors(Lane[PatientEvent]):
    """Gives the points of a merged patient to the surviving one."""

    name = "merges"
    kind = PatientEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self._store: VectorStore | None = None

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
        """Re-key, in the order of the log: a chain of merges (a into b, b into c) ends at the last."""
        assert self._store is not None
        # The other lanes make the collections; one that is not there yet holds nothing of the old patient.
        there = [collection for collection in COLLECTIONS if await self._store.exists(collection)]
        for outcome in outcomes:
            if outcome.effect is not None:
                old, new = outcome.effect
                await self._store.rekey_patient(there, old=old, new=new)

    async def close(self) -> None:
        """Close the connections."""
        if self._store:
            await self._store.close()
