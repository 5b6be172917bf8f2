"""What a lane is: which events go in, what becomes of a batch of them. Nothing here or in `streams.lanes` is about Kafka.

The engine (`streams.engine`) calls, for one partition, one batch at a time and in order:

    decode   bytes -> event           a record that does not decode is a dead letter; the rest go on
    process  events -> outcomes       pure computing and inference; may be repeated, has no effect outside
    store    outcomes -> (vectors)    effects outside Kafka; idempotent
    (the engine writes the outcomes' events, the audit record and the dead letters, confirmed, and settles)

`Transient` from any step holds the partition and repeats that step; `Poison` in an outcome makes that input a dead letter.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Final, Generic, TypeVar

from models.errors import VigilError
from models.tasks import ModelIdentity
from processors.events import Event, Source
from streams.custody import Custody
from streams.deadletters import redriven
from streams.metrics import LaneMetrics
from streams.serving import Serving
from streams.settings import LaneSettings, Settings
from streams.wire import decode

E = TypeVar("E", bound=Event)

OUTDATED: Final = "outdated"  # what the audit says of a version that a newer one has replaced


@dataclass(slots=True, frozen=True)
class Input(Generic[E]):
    """An event with the Kafka record that carried it."""

    event: E
    source: Source
    record: Any

    @property
    def digest(self) -> str:
        """SHA-256 of the input as it was used."""
        return sha256(self.record.value).hexdigest()

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset of the record, of a copy those of its original."""
        source = redriven(self.record) or self.source
        return source.partition, source.offset


@dataclass(slots=True)
class Outcome:
    """What became of one input: events to write, something for `store`, or the error that makes it a dead letter."""

    events: Sequence[Event] = ()
    effect: Any = None
    error: VigilError | None = None
    word: str = "ok"  # for the audit: ok, duplicate, cancelled, ...; of the first event, or of the input where there is none
    others: str = "ok"  # likewise, of the events after the first
    model: ModelIdentity | None = None  # who answered; the lane's own model where it is not said


class Lane(ABC, Generic[E]):
    """A stateless lane: one kind of event in, in order per partition, outcomes out."""

    name: ClassVar[str]
    kind: type[E]

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.custody: Custody | None = None  # of a lane that writes to a collection

    @property
    @abstractmethod
    def config(self) -> LaneSettings:
        """This lane's own settings."""

    @property
    @abstractmethod
    def model(self) -> ModelIdentity | None:
        """The model that serves now: for the audit and dead letters of outcomes that do not name theirs."""

    @property
    def serving(self) -> Serving[Any] | None:
        """The models that may change while the lane runs; none in a lane without."""
        return None

    def decode(self, record: Any) -> Input[E]:
        """Read one record; raises `Poison`."""
        event = decode(self.kind, record)
        source = Source(topic=self.kind.topic, partition=record.partition, offset=record.offset, event_id=event.id)
        return Input(event, source, record)

    async def open(self) -> None:
        """Load the models, connect the stores. Raises `Fatal` (wrong weights) or `Transient` (store away: tried again)."""
        return

    @abstractmethod
    async def process(self, inputs: Sequence[Input[E]]) -> list[Outcome]:
        """Return one outcome per input, in order."""

    async def store(self, inputs: Sequence[Input[E]], outcomes: Sequence[Outcome]) -> None:
        """Bring about what is not a Kafka record, idempotently and confirmed."""
        return

    async def close(self) -> None:
        """Undo `open`."""
        return
