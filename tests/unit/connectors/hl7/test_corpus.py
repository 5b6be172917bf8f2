"""The messages of other parsers' test suites: no crash, an outcome each, type and version as the manifest read them."""

import csv

import pytest

from connectors.hl7.batches import messages
from connectors.hl7.settings import Peer
from tests.edge import DATA
from tests.hl7_messages import NOW, mapper

CORPUS = DATA / "hl7"
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the corpus is not at {CORPUS}")


def rows() -> list[dict[str, str]]:
    with (CORPUS / "manifest.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def explained(row: dict[str, str]) -> bool:
    """The manifest's reader took a byte order mark for content, and knows no field separator but `|`: it read no type at all."""
    return "no_MSH_start" in row["issues"] or ("nonpipe" in row["issues"] and row["type"] == "")


def test_every_message_has_an_outcome() -> None:
    made, peer = mapper(), Peer("corpus")
    for row in rows():
        for raw in messages((CORPUS / row["file"]).read_bytes()):
            outcome = made.handle(raw, peer, NOW)
            assert outcome.verdict in ("accepted", "refused", "ignored", "dead-letter"), row["file"]
            assert "mapping failed" not in outcome.reason, row["file"]
            assert outcome.code or outcome.message_type.startswith("ACK"), row["file"]


def test_type_and_version_as_the_manifest_has_them() -> None:
    made, peer = mapper(), Peer("corpus")
    other = []
    for row in rows():
        raw = next(messages((CORPUS / row["file"]).read_bytes()))
        outcome = made.handle(raw, peer, NOW)
        if (outcome.message_type, outcome.version) != (row["type"], row["version"]) and not explained(row):
            other.append((row["file"], outcome.message_type, outcome.version))
    assert other == []


def test_no_file_is_cut_into_pieces_that_it_does_not_have() -> None:
    assert all(len([*messages((CORPUS / row["file"]).read_bytes())]) == 1 for row in rows())
