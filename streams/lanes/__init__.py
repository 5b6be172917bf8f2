"""The lanes, by name. A lane's module is imported when it is made: the vitals lane need not load what images need."""

from importlib import import_module

from streams.clock import clock_of
from streams.engine import Job, MakeJob
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.partition import StatelessJob
from streams.settings import Settings


def _stateless(module: str, lane: str) -> MakeJob:
    def make(settings: Settings, outbox: Outbox, metrics: LaneMetrics) -> Job:
        kind = getattr(import_module(module), lane)
        return StatelessJob(kind(settings, metrics), outbox, settings, clock_of(settings.clock))

    return make


def _vitals(settings: Settings, outbox: Outbox, metrics: LaneMetrics) -> Job:
    from streams.lanes.vitals import VitalsJob

    return VitalsJob(settings, outbox, metrics, clock_of(settings.clock))


# Vitals first: what is started first is ready first.
LANES: dict[str, MakeJob] = {
    "vitals": _vitals,
    "notes-entities": _stateless("streams.lanes.notes", "NotesToEntities"),
    "notes-vectors": _stateless("streams.lanes.notes", "NotesToVectors"),
    "images": _stateless("streams.lanes.images", "ImagesToFindings"),
    "merges": _stateless("streams.lanes.merges", "PatientsToVectors"),
}
