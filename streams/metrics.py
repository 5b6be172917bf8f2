"""What lanes and connectors tell Prometheus. Labels carry lanes, connectors, stages and reasons: never a patient, never a text."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.errors import VigilError
from models.tasks import ModelIdentity

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_APART = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_MISSED = ("retention", "past-end")  # as `streams.intake` says


class LaneMetrics:
    """One lane's metrics, in a registry of its own (several lanes may share a process in tests)."""

    def __init__(self, lane: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU, and the start time that shows restarts
        constant = {"lane": lane}

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"vigil_{name}", text, ("lane", *labels), registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"vigil_{name}", text, ("lane", *labels), registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"vigil_{name}", text, ("lane", *labels), registry=self.registry, buckets=buckets)

        self.consumed = counter("consumed", "records whose outputs are all confirmed").labels(**constant)
        self._produced = counter("produced", "records written and confirmed", ("topic",))
        self._dead = counter("dead_lettered", "inputs that went to the dead letters", ("stage", "error"))
        self._again = counter(
            "dead_lettered_again",
            "copies by a redrive or replay on which the lane failed once more: no new letters",
            ("stage", "error"),
        )
        self._retries = counter("retries", "attempts repeated after transient trouble", ("step",))
        self.in_flight = gauge("in_flight", "records taken in and not yet settled").labels(**constant)
        self._lag = gauge("lag", "records between what is settled and the end of the log", ("topic", "partition"))
        which = ("topic", "partition")
        self._by_partition = (
            gauge("partition_in_flight", "records of a partition taken in and not yet settled", which),
            gauge("partition_seconds_since_commit", "seconds since this worker committed a partition; NaN: not yet", which),
            gauge(
                "partition_held_seconds", "for how long a partition waits for transient trouble to pass; 0: it does not", which
            ),
        )
        self._owned: set[tuple[str, int]] = set()
        self.since_commit = gauge("seconds_since_commit", "seconds since offsets were last committed").labels(**constant)
        self.oldest = gauge("oldest_unsettled_seconds", "age of the oldest unsettled slice").labels(**constant)
        self.held = gauge("held_partitions", "partitions that wait for transient trouble to pass").labels(**constant)
        self.ready = gauge("ready", "1 when the lane is assigned, connected and making progress").labels(**constant)
        self.silent = gauge(
            "kafka_silent_seconds", "seconds without an answer of Kafka's, to a fetch of the worst partition or to a write"
        ).labels(**constant)
        self.collection_missing = gauge(
            "collection_missing", "1 while the collection that this lane has written before is not in the vector store"
        ).labels(**constant)
        self.rebalances = gauge("rebalances", "assignments received since the start").labels(**constant)
        self.batch = histogram("batch_records", "records of a batch", _SIZES).labels(**constant)
        self._model_batch = histogram("model_batch_items", "items of one inference", _SIZES, ("model",))
        self._model_seconds = histogram("model_seconds", "seconds of one inference", _SECONDS, ("model",))
        self.end_to_end = histogram(
            "end_to_end_seconds",
            "from the input's Kafka timestamp to its outputs confirmed; of the vitals lane one observation a batch, of its oldest",
            _SECONDS,
        ).labels(**constant)
        self._events = counter("events", "outputs by kind and state (alerts raised, scores late, ...)", ("kind",))
        self._missed = counter(
            "missed",
            "records that can never be read: retention took them, or the log was replaced",
            ("topic", "partition", "reason"),
        )
        self._silent = gauge(
            "silent_partitions", "partitions of the vitals lane that are not heard on clinical.alerts (deliveries)"
        )
        self._model_info = gauge(
            "model_info",
            "1 for each model that is open, by what it is to its task",
            ("task", "role", "model", "version", "digest"),
        )
        self._refused = counter("models_refused", "models that the registry named and that could not serve", ("task", "role"))
        self._cached = counter("cached_predictions", "items asked of the prediction cache: hit or miss", ("task", "outcome"))
        self._shadowed = counter(
            "shadow_items",
            "inputs offered to a challenger in shadow: agreed, differed, incomparable, failed, dropped (queue full, or withdrawn)",
            ("task", "outcome"),
        )
        self._apart = histogram(
            "shadow_disagreement", "of champion and challenger on one input: 0 the same, 1 nothing in common", _APART, ("task",)
        )
        self._unwritten = counter(
            "shadow_unwritten", "comparisons that Kafka did not confirm; they are not tried again", ("task",)
        )
        self._psi = gauge(
            "drift_psi",
            "population stability index of a figure against the model's reference: < 0.1 stable, > 0.25 shifted",
            ("task", "model", "figure"),
        )
        self._absent = gauge("drift_missing", "share of the last window without that figure", ("task", "model", "figure"))
        self._behind = gauge(
            "feed_behind_seconds",
            "how old a peer's sets of vitals are when they are received: the middle one of the last 20, at most the newest",
            ("peer", "partition"),
        )
        self._feeds: dict[int, set[str]] = {}
        self._observed = gauge(
            "patients_observed", "patients of whom a set came lately, as the last heartbeat said", ("partition",)
        )
        self._cannot_alert = gauge(
            "patients_cannot_alert",
            "of those observed, patients on whom no score can alert, by reason",
            ("partition", "reason"),
        )
        self._counted: dict[int, tuple[str, ...]] = {}
        self._serving: dict[tuple[str, str], ModelIdentity] = {}
        self.lane = lane
        self._retries.labels(lane, "produce")  # at zero, as in `expect`

    def expect(self, kinds: Iterable[str]) -> None:
        """Show kinds of events at zero before the first one: a counter that is first seen at 1 has no increase."""
        for kind in kinds:
            self._events.labels(self.lane, kind)

    def produced(self, topic: str, count: int = 1) -> None:
        """Count records confirmed on a topic."""
        self._produced.labels(self.lane, topic).inc(count)

    def dead_lettered(self, stage: str, error: str, *, again: bool = False) -> None:
        """Count a dead letter, by the stage that failed and the error's type: what `vigil dead-letters list` counts by.

        One that a redrive or replay has open `again` is counted apart: who gave it back looks, and nobody is woken by it.
        """
        (self._again if again else self._dead).labels(self.lane, stage, error).inc()

    def retried(self, step: str) -> None:
        """Count an attempt repeated."""
        self._retries.labels(self.lane, step).inc()

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Set a partition's lag."""
        self._lag.labels(self.lane, topic, partition).set(records)
        for reason in _MISSED:
            self._missed.labels(self.lane, topic, partition, reason)  # at zero, as in `expect`

    def partitions(self, owned: Mapping[tuple[str, int], tuple[int, float, float]]) -> None:
        """Show, for each partition that is assigned: records in flight, seconds since its commit, seconds for which it is held."""
        for gauge in self._by_partition:
            for place in self._owned - owned.keys():
                gauge.remove(self.lane, *place)  # another worker's now, which says it too
        for place, values in owned.items():
            for gauge, value in zip(self._by_partition, values, strict=True):
                gauge.labels(self.lane, *place).set(value)
        self._owned = set(owned)

    def missed(self, topic: str, partition: int, reason: str, records: int) -> None:
        """Count records that the log lost before they were read."""
        self._missed.labels(self.lane, topic, partition, reason).inc(records)

    def watch_silence(self, silent: Callable[[], int]) -> None:
        """Show on how many partitions the vitals lane is not heard, as of when somebody asks."""
        self._silent.labels(self.lane).set_function(silent)

    def event(self, kind: str, count: int = 1) -> None:
        """Count an output of a kind."""
        self._events.labels(self.lane, kind).inc(count)

    def inference(self, model: str, items: int, seconds: float) -> None:
        """Note one run of a model."""
        self._model_batch.labels(self.lane, model).observe(items)
        self._model_seconds.labels(self.lane, model).observe(seconds)

    def serves(self, task: str, role: str, model: ModelIdentity | None) -> None:
        """Show the model in a role of a task, in place of the one before; None where there is none."""
        self._refused.labels(self.lane, task, role)  # at zero, as in `expect`
        before = self._serving.pop((task, role), None)
        if before is not None and before != model:
            self._model_info.remove(self.lane, task, role, before.name, before.version, before.digest)
        if model is not None:
            self._serving[task, role] = model
            self._model_info.labels(self.lane, task, role, model.name, model.version, model.digest).set(1)

    def feeds(self, partition: int, behind: Mapping[str, float]) -> None:
        """Show how old each peer's sets are when they are received (seconds); none where another worker has the partition now."""
        for peer in self._feeds.pop(partition, set()) - behind.keys():
            self._behind.remove(self.lane, peer, partition)
        for peer, seconds in behind.items():
            self._behind.labels(self.lane, peer, partition).set(seconds)
        self._feeds[partition] = set(behind)

    def patients(self, partition: int, observed: int, cannot_alert: Mapping[str, int], reasons: Sequence[str]) -> None:
        """Show how many patients of a partition are observed, and how many of them cannot alert, by each of the reasons."""
        self._observed.labels(self.lane, partition).set(observed)
        for reason in reasons:
            self._cannot_alert.labels(self.lane, partition, reason).set(cannot_alert.get(reason, 0))
        self._counted[partition] = tuple(reasons)

    def left(self, partition: int) -> None:
        """Show a partition's feeds and patients no more: it is another worker's now, which shows them."""
        self.feeds(partition, {})
        if reasons := self._counted.pop(partition, ()):
            self._observed.remove(self.lane, partition)
            for reason in reasons:
                self._cannot_alert.remove(self.lane, partition, reason)

    def cached(self, task: str, *, hits: int, misses: int) -> None:
        """Count what the prediction cache knew and what it did not."""
        self._cached.labels(self.lane, task, "hit").inc(hits)
        self._cached.labels(self.lane, task, "miss").inc(misses)

    def model_refused(self, task: str, role: str) -> None:
        """Count a model that could not be opened while another served on."""
        self._refused.labels(self.lane, task, role).inc()

    def drifted(self, task: str, model: str, figure: str, index: float, missing: float) -> None:
        """Show how far a figure is from the model's reference, and how often it is missing."""
        self._psi.labels(self.lane, task, model, figure).set(index)
        self._absent.labels(self.lane, task, model, figure).set(missing)

    def shadowed(self, task: str, outcome: str, count: int = 1) -> None:
        """Count inputs offered to a challenger in shadow, by what became of them."""
        self._shadowed.labels(self.lane, task, outcome).inc(count)

    def disagreed(self, task: str, apart: float) -> None:
        """Note how far champion and challenger were apart, 0 to 1."""
        self._apart.labels(self.lane, task).observe(apart)

    def shadow_unwritten(self, task: str, count: int) -> None:
        """Count comparisons that were not written."""
        self._unwritten.labels(self.lane, task).inc(count)


class EdgeMetrics(Collector):
    """The metrics of the connectors' process. A peer stands in a label by its name in the settings, never by what it sent.

    May be told from any thread. What a server counts by itself is read when somebody asks (`watch`).
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vigil_connector_{name}", text, ("connector", *labels), registry=self.registry)

        def seconds(name: str, text: str) -> Histogram:
            name = f"vigil_connector_{name}_seconds"
            return Histogram(name, text, ("connector",), registry=self.registry, buckets=_SECONDS)

        self._messages = counter("messages", "messages answered, by what became of them", "peer", "verdict")
        self._answers = counter("answers", "answers given: AA, AE, ..., HTTP statuses, DICOM statuses", "answer")
        self._published = counter("published", "events that Kafka confirmed, the dead letters among them", "topic")
        self._unconfirmed = counter("unconfirmed", "messages whose events Kafka did not confirm", "reason")
        self._answer_seconds = seconds("answer", "from a whole message to its answer")
        self._publish_seconds = seconds("publish", "from handing events over to Kafka's confirmation")
        self._last = Gauge(
            "vigil_connector_last_message_timestamp_seconds",
            "when a peer's last message was answered: a feed that has gone quiet",
            ("connector", "peer"),
            registry=self.registry,
        )
        self.ready = Gauge("vigil_connectors_ready", "1 when all connectors listen and Kafka answers", registry=self.registry)
        self._groups: Mapping[str, tuple[int, int]] = {}
        self._connections: dict[str, Callable[[], int]] = {}
        self._counts: dict[str, Mapping[str, int]] = {}
        self._free: Callable[[], int | None] = lambda: None
        self._least = 0
        self.registry.register(self)

    def watch(self, connector: str, connections: Callable[[], int], counts: Mapping[str, int] | None = None) -> None:
        """Show a connector's open connections, and what it counts by `peer:name`."""
        self._connections[connector] = connections
        self._unconfirmed.labels(connector, "transient")  # a counter that is first seen at 1 has no increase
        if counts is not None:
            self._counts[connector] = counts

    def groups(self, found: Mapping[str, tuple[int, int]]) -> None:
        """Show, for each lane whose group has ever committed: records that wait for it, and the sum of its offsets."""
        self._groups = found

    def watch_disk(self, free: Callable[[], int | None], least: int) -> None:
        """Show the bytes that are free for objects (None: a remote store does not say), and below how many none is taken."""
        self._free, self._least = free, least

    def message(self, connector: str, peer: str, verdict: str) -> None:
        """Count a message that was answered."""
        self._messages.labels(connector, peer, verdict).inc()
        self._last.labels(connector, peer).set(time.time())

    def answer(self, connector: str, answer: str, seconds: float) -> None:
        """Count an answer."""
        self._answers.labels(connector, answer).inc()
        self._answer_seconds.labels(connector).observe(seconds)

    def published(self, connector: str, topics: Iterable[str], seconds: float) -> None:
        """Count the events of one message, by their topics, once they are confirmed."""
        for topic in topics:
            self._published.labels(connector, topic).inc()
        self._publish_seconds.labels(connector).observe(seconds)

    def unconfirmed(self, connector: str, reason: str) -> None:
        """Count a message that Kafka did not confirm, by the kind of error."""
        self._unconfirmed.labels(connector, reason).inc()

    def describe(self) -> Iterator[Metric]:
        """Name what `collect` gives: Prometheus' own call."""
        yield GaugeMetricFamily("vigil_connector_connections", "", labels=("connector",))
        yield CounterMetricFamily("vigil_connector_occurrences", "", labels=("connector", "peer", "what"))
        yield GaugeMetricFamily("vigil_group_lag", "", labels=("lane",))
        yield GaugeMetricFamily("vigil_group_committed", "", labels=("lane",))
        yield GaugeMetricFamily("vigil_objects_free_bytes", "")
        yield GaugeMetricFamily("vigil_objects_least_free_bytes", "")

    def collect(self) -> Iterator[Metric]:
        """Read what the servers know: Prometheus' own call."""
        yield from self._disk()
        yield from self._lanes()
        gauge = GaugeMetricFamily("vigil_connector_connections", "open connections", labels=("connector",))
        for connector, connections in self._connections.items():
            gauge.add_metric((connector,), connections())
        yield gauge
        words = "what else happened, by its name in CONFORMANCE.md"
        family = CounterMetricFamily("vigil_connector_occurrences", words, labels=("connector", "peer", "what"))
        for connector, counts in self._counts.items():
            for key, number in list(counts.items()):
                peer, colon, what = key.rpartition(":")
                if colon:
                    family.add_metric((connector, peer, what), number)
        yield family

    def _lanes(self) -> Iterator[Metric]:
        text = "records that wait for a lane, by its group's offsets, whoever runs it"
        lag = GaugeMetricFamily("vigil_group_lag", text, labels=("lane",))
        committed = GaugeMetricFamily("vigil_group_committed", "sum of the offsets that a lane has committed", labels=("lane",))
        for lane, (records, offsets) in self._groups.items():
            lag.add_metric((lane,), records)
            committed.add_metric((lane,), offsets)
        yield lag
        yield committed

    def _disk(self) -> Iterator[Metric]:
        try:
            free = self._free()
        except (OSError, VigilError):  # the folder is gone: /metrics must tell the rest all the same
            return
        if free is not None:
            yield GaugeMetricFamily("vigil_objects_free_bytes", "bytes free where new objects are stored", value=free)
            yield GaugeMetricFamily("vigil_objects_least_free_bytes", "below these no image is taken", value=self._least)
