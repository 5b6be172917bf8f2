"""What a lane tells Prometheus. Labels carry lanes, stages and reasons: never a patient, never a text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class LaneMetrics:
    """One lane's metrics, in a registry of its own (several lanes may share a process in tests)."""

    def __init__(self, lane: str) -> None:
        self.registry = CollectorRegistry()
        constant = {"lane": lane}

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"vigil_{name}", text, ("lane", *labels), registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"vigil_{name}", text, ("lane", *labels), registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"vigil_{name}", text, ("lane", *labels), registry=self.registry, buckets=buckets)

        self.consumed = counter("consumed", "records whose outputs are all confirmed").labels(**constant)
        self._produced = counter("produced", "records written and confirmed", ("topic",))
        self._dead = counter("dead_lettered", "inputs that went to the dead letters", ("stage",))
        self._retries = counter("retries", "attempts repeated after transient trouble", ("step",))
        self.in_flight = gauge("in_flight", "records taken in and not yet settled").labels(**constant)
        self._lag = gauge("lag", "records between what is settled and the end of the log", ("topic", "partition"))
        self.lag_seconds = gauge("lag_seconds", "age of the newest record settled, while there is lag").labels(**constant)
        self.since_commit = gauge("seconds_since_commit", "seconds since offsets were last committed").labels(**constant)
        self.oldest = gauge("oldest_unsettled_seconds", "age of the oldest unsettled slice").labels(**constant)
        self.held = gauge("held_partitions", "partitions that wait for transient trouble to pass").labels(**constant)
        self.ready = gauge("ready", "1 when the lane is assigned, connected and making progress").labels(**constant)
        self.rebalances = gauge("rebalances", "assignments received since the start").labels(**constant)
        self.batch = histogram("batch_records", "records of a batch", _SIZES).labels(**constant)
        self._model_batch = histogram("model_batch_items", "items of one inference", _SIZES, ("model",))
        self._model_seconds = histogram("model_seconds", "seconds of one inference", _SECONDS, ("model",))
        self.end_to_end = histogram(
            "end_to_end_seconds", "from the input's Kafka timestamp to its outputs confirmed", _SECONDS
        ).labels(**constant)
        self._events = counter("events", "outputs by kind and state (alerts raised, scores late, ...)", ("kind",))
        self.lane = lane

    def produced(self, topic: str, count: int = 1) -> None:
        """Count records confirmed on a topic."""
        self._produced.labels(self.lane, topic).inc(count)

    def dead_lettered(self, stage: str) -> None:
        """Count a dead letter."""
        self._dead.labels(self.lane, stage).inc()

    def retried(self, step: str) -> None:
        """Count an attempt repeated."""
        self._retries.labels(self.lane, step).inc()

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Set a partition's lag."""
        self._lag.labels(self.lane, topic, partition).set(records)

    def event(self, kind: str, count: int = 1) -> None:
        """Count an output of a kind."""
        self._events.labels(self.lane, kind).inc(count)

    def inference(self, model: str, items: int, seconds: float) -> None:
        """Note one run of a model."""
        self._model_batch.labels(self.lane, model).observe(items)
        self._model_seconds.labels(self.lane, model).observe(seconds)
