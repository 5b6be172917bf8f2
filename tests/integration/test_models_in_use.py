"""A model in use is written over by no training and no measuring before it is on record (asked: tests/unit/streams)."""

import asyncio
from pathlib import Path

import pytest

from models.errors import Transient
from models.registering import record
from models.registry import Registry
from streams.cli.model_in_use import InUse
from tests import tiny_models as tiny
from tests.clinic import NOWHERE, Clinic
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A site's registry file, whose one entity model serves."""
    path = tmp_path / "site.toml"
    record(tiny.entry_of(tiny.classifier_folder(tmp_path / "tiny")), path)
    return path


def test_what_a_training_records_counts_once_it_is_audited(
    kafka: Kafka, tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Clinic(kafka, tmp_path)
    monkeypatch.setenv("VIGIL_KAFKA__BOOTSTRAP", kafka.bootstrap)
    monkeypatch.setenv("VIGIL_KAFKA__TOPIC_PREFIX", site.prefix)
    monkeypatch.setenv("VIGIL_KAFKA__EMBEDDED", str(kafka.kind == "embedded").lower())
    entry, before = Registry.load(registry).entry("ner", "tiny"), registry.read_bytes()
    in_use = InUse.ask(registry, "ner", "tiny", yes=True)
    newer = entry.model_copy(update={"version": "9"})
    with pytest.raises(RuntimeError, match="no memory"), in_use.recording("vigil train ner") as place:
        record(newer, place)
        raise RuntimeError("no memory")
    with monkeypatch.context() as away, pytest.raises(Transient), in_use.recording("vigil train ner") as place:
        record(newer, place)
        away.setenv("VIGIL_KAFKA__BOOTSTRAP", NOWHERE.removeprefix("http://"))
    assert registry.read_bytes() == before
    with in_use.recording("vigil train ner") as place:
        record(newer, place)
        assert registry.read_bytes() == before  # lanes see nothing of it yet
    assert Registry.load(registry).entry("ner", "tiny").version == "9"
    assert not list(registry.parent.glob(".*.draft*"))
    (audit,) = [one for one in asyncio.run(site.read("clinical.audit")) if one["action"] == "model-change"]
    assert audit["reason"] == "tiny serves ner, written over by vigil train ner"
    assert (audit["subject"], audit["model"]["version"]) == ("model/ner", "9")


def test_what_no_lane_reads_is_written_unasked(tmp_path: Path, registry: Path) -> None:
    entry = Registry.load(registry).entry("ner", "tiny")
    for place, name in ((tmp_path / "own.toml", "clinical-ner"), (registry, "another")):
        in_use = InUse.ask(place, "ner", name, yes=False)
        with in_use.recording("vigil train ner") as lent:
            assert lent == place
            record(entry.model_copy(update={"name": name}), lent)
    assert not InUse.ask(registry, "ner", "another", yes=False).role
