"""The embedded vector store as a process: what it answered survives SIGKILL, it ends with its parent, one process owns a folder."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import CollectionSpec, QdrantSettings
from connectors.qdrant.store import Point, VectorStore, Where
from models.errors import Fatal

SPEC = CollectionSpec("notes", "text", 8)
VECTORS = {"vectors": {"text": {"size": 8, "distance": "Cosine"}}, "sparse_vectors": {"words": {"modifier": "idf"}}}


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedQdrant]:
    with EmbeddedQdrant(tmp_path / "data") as running:
        yield running


def client(url: str, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, headers=headers, timeout=10)


def body_of(numbers: range, version: int = 0) -> dict[str, Any]:
    return {
        "points": [
            {
                "id": n,
                "vector": {
                    "text": [float(n % 7 + 1)] * 7 + [1.0],
                    "words": {"indices": [version, 2**32 - 1], "values": [0.5, 2.0]},
                },
                "payload": {"note_id": f"n{n // 10}", "version": version},
            }
            for n in numbers
        ]
    }


def all_points(http: httpx.Client) -> dict[int, dict[str, Any]]:
    result = http.post("/collections/notes/points/scroll", json={"limit": 100_000, "with_vector": True}).json()["result"]
    found = {point["id"]: point for point in result["points"]}
    assert len(found) == len(result["points"]), "a point came twice"
    assert http.post("/collections/notes/points/count", json={}).json()["result"]["count"] == len(found)
    return found


def test_what_was_answered_survives_sigkill(tmp_path: Path) -> None:
    """Upserts, overwrites, deletions and re-keying by two writers; the store is killed five times at a random instant."""
    chance = random.Random(7)
    settled: dict[int, dict[int, int | None]] = {0: {}, 1: {}}  # writer -> id -> version, None when deleted; as answered
    touched: dict[int, dict[int, int | None]] = {0: {}, 1: {}}  # sent and not answered: may be there or not
    store = EmbeddedQdrant(tmp_path / "data")

    def write(writer: int, url: str, seed: int) -> None:
        luck = random.Random(seed)
        with client(url) as http:
            for step in range(10_000):
                first = writer * 100_000 + luck.randrange(60) * 10
                numbers = range(first, first + 10)
                version = seed * 100_000 + step
                delete = luck.random() < 0.2
                changes = dict.fromkeys(numbers, None if delete else version)
                touched[writer] = changes
                try:
                    if delete:
                        wanted = {"filter": {"must": [{"key": "note_id", "match": {"value": f"n{first // 10}"}}]}}
                        answer = http.post("/collections/notes/points/delete?wait=true", json=wanted)
                    else:
                        answer = http.put("/collections/notes/points?wait=true", json=body_of(numbers, version))
                except httpx.TransportError:
                    return
                assert answer.json()["result"]["status"] == "completed"
                settled[writer].update(changes)
                touched[writer] = {}

    with client(store.start()) as http:
        assert http.put("/collections/notes", json=VECTORS).json()["result"]
        http.put("/collections/notes/index?wait=true", json={"field_name": "note_id", "field_schema": "keyword"})
    for attempt in range(5):
        writers = [threading.Thread(target=write, args=(one, store.url, attempt * 2 + one)) for one in (0, 1)]
        for thread in writers:
            thread.start()
        while not any(settled.values()) and any(thread.is_alive() for thread in writers):
            time.sleep(0.01)  # on a busy machine the first answer may take longer than all of what follows
        time.sleep(chance.uniform(0.1, 0.5))
        store.kill()
        for thread in writers:
            thread.join()
        with client(store.start()) as http:
            found = all_points(http)
            last = max(point["payload"]["version"] for point in found.values())
            ask = {"query": {"indices": [last], "values": [1.0]}, "using": "words", "limit": 1000}
            named = http.post("/collections/notes/points/query", json=ask).json()["result"]["points"]
        for writer in (0, 1):
            for number, version in settled[writer].items():
                here = found[number]["payload"]["version"] if number in found else None
                allowed = {version, touched[writer].get(number, version)}
                assert here in allowed, f"point {number} is at version {here}, answered was {version}"
            settled[writer].update({n: found[n]["payload"]["version"] if n in found else None for n in touched[writer]})
        for point in found.values():
            words = {"indices": [point["payload"]["version"], 2**32 - 1], "values": [0.5, 2.0]}
            assert len(point["vector"]["text"]) == 8 and point["vector"]["words"] == words
        assert {hit["id"] for hit in named} == {n for n, one in found.items() if one["payload"]["version"] == last}
    assert sum(len(one) for one in settled.values()) > 100
    store.stop()


def test_a_stop_is_clean_and_a_restart_has_everything(tmp_path: Path) -> None:
    store = EmbeddedQdrant(tmp_path / "data")
    for round_number in range(3):
        with client(store.start()) as http:
            if round_number == 0:
                http.put("/collections/notes", json=VECTORS)
                http.put("/collections/notes/index?wait=true", json={"field_name": "note_id", "field_schema": "keyword"})
            assert sorted(all_points(http)) == list(range(round_number * 1000))
            numbers = range(round_number * 1000, (round_number + 1) * 1000)
            http.put("/collections/notes/points", json=body_of(numbers)).raise_for_status()  # even without `wait`
            info = http.get("/collections/notes").json()["result"]
            assert list(info["payload_schema"]) == ["note_id"]
            assert {name: info["config"]["params"][name] for name in VECTORS} == VECTORS
        store.stop()
        assert store.pid is None


def test_many_deleted_points_are_swept_at_the_next_start(tmp_path: Path) -> None:
    with EmbeddedQdrant(tmp_path / "data") as store, client(store.url) as http:
        http.put("/collections/notes", json=VECTORS)
        for start in range(0, 4000, 1000):
            http.put("/collections/notes/points", json=body_of(range(start, start + 1000))).raise_for_status()
        http.post("/collections/notes/points/delete?wait=true", json={"points": list(range(2500))}).raise_for_status()
    with EmbeddedQdrant(tmp_path / "data") as store, client(store.url) as http:
        assert sorted(all_points(http)) == list(range(2500, 4000))
        info = http.get("/collections/notes").json()["result"]
        # Searches stay exact: the words' index is one, and there is no graph.
        assert (info["points_count"], info["indexed_vectors_count"]) == (1500, 1500)


PARENT = """
import sys, time
from pathlib import Path
from connectors.qdrant.embedded import EmbeddedQdrant
store = EmbeddedQdrant(Path(sys.argv[1]))
store.start()
print(store.pid, flush=True)
time.sleep(600)
"""


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline, "the store outlived its parent"
        time.sleep(0.02)
    with EmbeddedQdrant(tmp_path / "data"):  # and let go of its folder
        pass


def test_one_process_owns_a_folder(embedded: EmbeddedQdrant) -> None:
    second = EmbeddedQdrant(embedded.data)
    with pytest.raises(Fatal, match="another process has the vector store"):
        second.start()
    with client(embedded.url) as http:
        assert http.get("/readyz").status_code == 200


def test_a_crash_while_a_collection_was_made_or_dropped_leaves_none(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with EmbeddedQdrant(data) as store, client(store.url) as http:
        http.put("/collections/kept", json=VECTORS)
        for name in ("half", "gone"):
            http.put(f"/collections/{name}", json=VECTORS)
    (data / "c-half").rename(data / ".creating-half")
    (data / ".creating-half" / "collection.json").unlink()
    (data / "c-gone").rename(data / ".dropping-c-gone")
    with EmbeddedQdrant(data) as store, client(store.url) as http:
        assert http.get("/collections").json()["result"] == {"collections": [{"name": "kept"}]}
        for name in ("half", "gone"):
            assert http.put(f"/collections/{name}", json=VECTORS).json()["result"] is True
    assert sorted(path.name for path in data.glob("[c.]*-*")) == ["c-gone", "c-half", "c-kept"]


def test_aliases_outlive_a_crash_and_go_with_what_they_lead_to(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store = EmbeddedQdrant(data)
    with store, client(store.url) as http:
        for name in ("one", "two"):
            http.put(f"/collections/{name}", json=VECTORS)
            action = {"create_alias": {"collection_name": name, "alias_name": f"{name}-alias"}}
            assert http.post("/collections/aliases", json={"actions": [action]}).json()["result"] is True
        store.kill()
    (data / "c-two").rename(data / ".dropping-c-two")  # killed before the alias was taken away
    with store, client(store.url) as http:
        found = http.get("/aliases").json()["result"]["aliases"]
        assert found == [{"alias_name": "one-alias", "collection_name": "one"}]
        assert http.post("/collections/one-alias/points/count", json={}).json()["result"] == {"count": 0}


def test_collections_of_odd_names(embedded: EmbeddedQdrant) -> None:
    names = ["a b", "..", "Ü-%2F%", "c-c", ".lock", "x" * 150]
    with client(embedded.url) as http:
        for name in names:
            quoted = "".join(f"%{byte:02X}" for byte in name.encode())
            made = http.put(f"/collections/{quoted}", json=VECTORS)
            assert made.status_code == 200, made.text
        listed = {one["name"] for one in http.get("/collections").json()["result"]["collections"]}
    assert listed == set(names)
    embedded.stop()
    with client(embedded.start()) as http:
        assert {one["name"] for one in http.get("/collections").json()["result"]["collections"]} == listed
    assert {path.name for path in embedded.data.parent.iterdir()} == {"data"}


def test_a_damaged_collection_stops_the_start_and_is_named(tmp_path: Path) -> None:
    with EmbeddedQdrant(tmp_path / "data") as store, client(store.url) as http:
        http.put("/collections/notes", json=VECTORS)
    (tmp_path / "data" / "c-notes" / "collection.json").write_text("{")
    with pytest.raises(Fatal, match=r"did not start: the collection notes in .* cannot be opened"):
        EmbeddedQdrant(tmp_path / "data").start()


# ------------------------------------------------------------------------------------------------------------- who may ask


def test_it_needs_the_key_that_it_was_given(tmp_path: Path) -> None:
    with EmbeddedQdrant(tmp_path / "data", api_key=SecretStr("sesame")) as store:
        with client(store.url) as http:
            assert http.get("/collections").status_code == 401
        with client(store.url, **{"api-key": "wrong"}) as http:
            assert http.get("/collections").status_code == 401
        with client(store.url, **{"api-key": "sesame"}) as http:
            assert http.get("/collections").status_code == 200
        command = Path(f"/proc/{store.pid}/cmdline").read_text()
        assert "sesame" not in command


async def test_the_store_sends_the_key_and_a_wrong_one_is_fatal(tmp_path: Path) -> None:
    with EmbeddedQdrant(tmp_path / "data", api_key=SecretStr("sesame")) as embedded:
        async with VectorStore(QdrantSettings(url=embedded.url, api_key=SecretStr("sesame"))) as store:
            await store.ensure([SPEC])
        async with VectorStore(QdrantSettings(url=embedded.url, api_key=SecretStr("wrong"))) as store:
            with pytest.raises(Fatal, match="refused the API key"):
                await store.count(SPEC)


def test_it_is_not_offered_to_the_network_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="without an API key"):
        EmbeddedQdrant(tmp_path / "data", host="0.0.0.0").start()


def test_the_data_is_for_its_owner_only(embedded: EmbeddedQdrant) -> None:
    assert embedded.data.stat().st_mode & 0o777 == 0o700


async def test_several_clients_share_it(embedded: EmbeddedQdrant) -> None:
    async with VectorStore(QdrantSettings(url=embedded.url)) as one, VectorStore(QdrantSettings(url=embedded.url)) as two:
        await one.ensure([SPEC])
        await one.upsert(SPEC, [Point(str(uuid.UUID(int=n)), np.ones(8, np.float32), {"patient_id": "p"}) for n in range(300)])
        assert await two.count(SPEC, Where(patient_ids=["p"])) == 300
