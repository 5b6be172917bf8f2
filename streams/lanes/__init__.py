"""The lanes, by name."""

from streams.clock import clock_of
from streams.engine import Job, MakeJob
from streams.lane import Lane
from streams.lanes.images import ImagesToFindings
from streams.lanes.notes import NotesToEntities, NotesToVectors
from streams.lanes.vitals import VitalsJob
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.partition import StatelessJob
from streams.settings import Settings


def _stateless(lane: type[Lane]) -> MakeJob:  # type: ignore[type-arg]
    def make(settings: Settings, outbox: Outbox, metrics: LaneMetrics) -> Job:
        return StatelessJob(lane(settings, metrics), outbox, settings, clock_of(settings.clock))

    return make


def _vitals(settings: Settings, outbox: Outbox, metrics: LaneMetrics) -> Job:
    return VitalsJob(settings, outbox, metrics, clock_of(settings.clock))


# Vitals first: what is started first is ready first.
LANES: dict[str, MakeJob] = {
    VitalsJob.name: _vitals,
    NotesToEntities.name: _stateless(NotesToEntities),
    NotesToVectors.name: _stateless(NotesToVectors),
    ImagesToFindings.name: _stateless(ImagesToFindings),
}
