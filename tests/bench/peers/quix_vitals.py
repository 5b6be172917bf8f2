"""The vitals job as Quix Streams' guide teaches it: a StreamingDataFrame, `apply` with metadata, `to_topic`.

https://quix.io/docs/quix-streams/processing.html
"""

import os
from typing import Any

from quixstreams import Application
from quixstreams.context import message_context

from tests.bench.peers.scoring import Scorer

BOOTSTRAP, PREFIX = os.environ["BENCH_BOOTSTRAP"], os.environ["BENCH_PREFIX"]
app = Application(
    broker_address=BOOTSTRAP,
    consumer_group=f"{PREFIX}quix",
    auto_offset_reset="earliest",
    producer_extra_config={"acks": "all"},
    loglevel="WARNING",
)
vitals = app.topic(f"{PREFIX}clinical.vitals", value_deserializer="bytes", key_deserializer="bytes")
scores = app.topic(f"{PREFIX}clinical.scores", value_serializer="bytes", key_serializer="bytes")
audits = app.topic(f"{PREFIX}clinical.audit", value_serializer="bytes", key_serializer="bytes")
alerts = app.topic(f"{PREFIX}clinical.alerts", value_serializer="bytes", key_serializer="bytes")
scorer = Scorer(BOOTSTRAP, PREFIX)


def work(value: bytes) -> Any:
    context = message_context()
    return scorer.score(value, context.partition, context.offset)


frame = app.dataframe(vitals).apply(work)
frame.apply(lambda made: made[0]).to_topic(scores)
frame.apply(lambda made: made[1]).to_topic(audits)
frame.apply(lambda made: made[2], expand=True).to_topic(alerts)

if __name__ == "__main__":
    app.run()
