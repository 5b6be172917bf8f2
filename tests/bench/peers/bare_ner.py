"""The bare model loop: the runtime object that the notes lane uses, over the same notes, and nothing else. Prints its rate."""

import json
import sys
import time
from pathlib import Path

from models.registry import Registry
from processors.events import NoteEvent
from streams.settings import Settings


def main() -> None:
    lines = Path(sys.argv[1]).read_bytes().splitlines()
    warm = int(sys.argv[2])
    texts = [NoteEvent.model_validate_json(line).text for line in lines]
    settings = Settings().models
    model = Registry.load(settings.registry).open("ner", threads=settings.threads)
    model.find(texts[:warm])  # warm-up
    begun = time.perf_counter()
    spans = sum(len(found) for found in model.find(texts[warm:]))
    seconds = time.perf_counter() - begun
    print(json.dumps({"notes": len(texts) - warm, "seconds": seconds, "spans": spans}))


if __name__ == "__main__":
    main()
