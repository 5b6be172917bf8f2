"""The vitals job as Faust's guide teaches it: an agent on a topic, `async for event in stream`, `await topic.send(...)`.

https://faust-streaming.github.io/faust/userguide/agents.html
"""

import os

import faust

from tests.bench.peers.scoring import Scorer

BOOTSTRAP, PREFIX = os.environ["BENCH_BOOTSTRAP"], os.environ["BENCH_PREFIX"]
app = faust.App(
    f"{PREFIX}guide",
    broker=f"kafka://{BOOTSTRAP}",
    value_serializer="raw",
    store="memory://",
    web_enabled=False,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    producer_acks=-1,
)
vitals = app.topic(f"{PREFIX}clinical.vitals", value_serializer="raw")
scores = app.topic(f"{PREFIX}clinical.scores", value_serializer="raw")
audits = app.topic(f"{PREFIX}clinical.audit", value_serializer="raw")
alerts = app.topic(f"{PREFIX}clinical.alerts", value_serializer="raw")
scorer = Scorer(BOOTSTRAP, PREFIX)


@app.agent(vitals)  # type: ignore[untyped-decorator]
async def work(stream: faust.Stream) -> None:
    async for event in stream.events():
        out, audit, raised = scorer.score(event.value, event.message.partition, event.message.offset)
        await scores.send(key=event.key, value=out)
        await audits.send(key=event.key, value=audit)
        for alert in raised:
            await alerts.send(key=event.key, value=alert)


if __name__ == "__main__":
    faust.Worker(app, loglevel="WARN", quiet=True).execute_from_commandline()
