"""The fixture gives a server that answers; what Vigil does with it is tested by the connectors."""

import json
import urllib.request

from tests.qdrant import QdrantServer


def test_it_answers(qdrant_server: QdrantServer) -> None:
    with urllib.request.urlopen(f"{qdrant_server.url}/collections", timeout=5) as answer:
        assert json.load(answer)["result"] == {"collections": []}
