"""The watch over drift: what it compares with is what the registry sealed."""

import logging
import shutil
from pathlib import Path

import pytest

from models.registry import Registry
from streams.drifting import watch
from streams.metrics import LaneMetrics
from streams.settings import ModelSettings


async def test_a_reference_that_was_changed_is_told_and_not_compared_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry, sealed = Registry.load().entry("ner"), Registry.load().folder(Registry.load().entry("ner"))
    metrics = LaneMetrics("test")
    assert watch(ModelSettings(), metrics, entry, sealed, lambda: None) is not None
    shutil.copy(sealed / "drift.json", tmp_path)
    with (tmp_path / "drift.json").open("a") as file:
        file.write("\n")
    with caplog.at_level(logging.WARNING, "vigil.drift"):
        assert watch(ModelSettings(), metrics, entry, tmp_path, lambda: None) is None
    assert "not watched for drift" in caplog.text and "drift.json differs" in caplog.text
