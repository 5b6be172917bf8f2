"""`vigil retrain` end to end: labels from clinical.feedback, pixels from the object store, a challenger in the registry."""

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from connectors.objects.store import ObjectStore
from models.errors import Permanent
from models.registry import Registry
from processors.events import Event, FeedbackEvent, ImageEvent, Source
from processors.findings import findings_event
from processors.identity import natural_id
from processors.instances import Version, withdrawal
from streams.cli import retrain as command
from streams.feedback import labelled_images
from tests import tiny_models as tiny
from tests.clinic import ORIGIN, Clinic
from tests.drawings import drawing
from tests.kafka import Kafka

pytest.importorskip("onnx", reason="the tiny champion is written by onnx (extra: train)")
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

LABELS = ("no finding", "pneumonia")
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def png(number: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(drawing(opaque=bool(number % 2), seed=number)).save(held, "PNG")
    return held.getvalue()


def image(store: ObjectStore, number: int, **fields: Any) -> ImageEvent:
    values: dict[str, Any] = {
        "id": natural_id("image", number),
        "patient_id": f"patient-{number}",
        "study_uid": "2.25.1",
        "series_uid": "2.25.2",
        "instance_uid": f"2.25.3.{number}",
        "modality": "DX",
        "rows": 64,
        "columns": 64,
        "pixels": store.put_now(png(number), "image/png", ".png"),
        "acquired_at": NOON,
        "received_at": NOON,
        "origin": ORIGIN,
    }
    return ImageEvent(**values | fields)


def feedback(target: Event, label: str, *, number: int = 0, **fields: Any) -> FeedbackEvent:
    values: dict[str, Any] = {
        "id": natural_id("feedback", target.id, number, label),
        "patient_id": getattr(target, "patient_id", ""),
        "kind": "finding-corrected",
        "target_id": target.id,
        "by": "radiologist-3",
        "label": label,
        "given_at": NOON + timedelta(minutes=number),
        "received_at": NOON,
        "origin": ORIGIN,
    }
    return FeedbackEvent(**values | fields)


async def ward(site: Clinic, registry: Path, numbers: Sequence[int]) -> list[Event]:
    """Write images and what the champion finds in them; return the findings."""
    store, model = ObjectStore(site.settings.objects), Registry.load(registry).open("image-text")
    images = [image(store, number) for number in numbers]
    scores = model.classify(model.embed_images([drawing(opaque=bool(number % 2), seed=number) for number in numbers]))
    findings = [
        findings_event(
            one,
            Source(topic=ImageEvent.topic, partition=0, offset=0, event_id=one.id),
            row,
            model.labels,
            model.thresholds,
            model.identity,
        )
        for one, row in zip(images, scores, strict=True)
    ]
    await site.write(*images, *findings)
    return list(findings)


def fixed_set(folder: Path) -> Path:
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "nih_patient"])
        for number in range(100, 130):
            (folder / f"{number}.png").write_bytes(png(number))
            writer.writerow([f"{number}.png", LABELS[number % 2], f"fixed-{number}"])
    return folder / "labels.csv"


async def test_feedback_becomes_a_challenger_that_does_not_serve(
    kafka: Kafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, registry = Clinic(kafka, tmp_path), tiny.image_text_site(tmp_path)
    findings = await ward(site, registry, range(40))
    fixed = fixed_set(tmp_path / "fixed")
    before = registry.read_text()
    few = [feedback(one, LABELS[number % 2]) for number, one in enumerate(findings[:6])]
    await site.write(*few)
    with pytest.raises(
        Permanent, match=r"too few labels to retrain from: 6 .* lacking: 14 more in all, 2 more of 'no finding'"
    ):
        await asyncio.to_thread(command._run, site.settings, fixed, tmp_path / "few", registry, 20, 20)
    assert registry.read_text() == before

    rest = [feedback(one, LABELS[number % 2]) for number, one in enumerate(findings) if number >= 6]
    await site.write(*rest)
    await asyncio.to_thread(command._run, site.settings, fixed, tmp_path / "new", registry, 20, 20)
    known = Registry.load(registry)
    stage = known.stage("image-text")
    assert (stage.champion, stage.mode) == ("tiny-xray", "shadow")
    assert stage.challenger.startswith("tiny-xray-retrained-")
    model = known.open("image-text", name=stage.challenger)  # verified, and it loads
    report = json.loads((tmp_path / "new/report.json").read_text())
    assert report["challenger"]["digest"] == model.identity.digest
    assert report["labels"] == {"no finding": 20, "pneumonia": 20}
    assert report["feedback"] == sorted(one.id for one in [*few, *rest])
    assert report["metrics"][0]["baselines"]["champion"]["baselines"]["difference"]["value"] > 0
    (audited,) = await site.read("clinical.audit")
    assert (audited["action"], audited["model"]["digest"]) == ("model-change", model.identity.digest)
    assert "proposed as challenger" in audited["reason"]
    assert "patient-" not in capsys.readouterr().out + (tmp_path / "new/card.md").read_text()


async def test_what_is_no_label_is_passed_over_and_counted(kafka: Kafka, tmp_path: Path) -> None:
    site, registry = Clinic(kafka, tmp_path), tiny.image_text_site(tmp_path)
    findings = await ward(site, registry, range(7))
    store = ObjectStore(site.settings.objects)
    trial = image(store, 50, processing="training")
    model = Registry.load(registry).open("image-text")
    source = Source(topic=ImageEvent.topic, partition=0, offset=0, event_id=trial.id)
    of_trial = findings_event(trial, source, [0.4, 0.6], model.labels, model.thresholds, model.identity)
    await site.write(trial, of_trial)
    word = image(store, 51, status="entered-in-error", instance_uid="2.25.3.6", pixels=None)
    reading = Version.of(word, 0, 0)
    taken_back = Version.of(image(store, 6), 0, 0)
    await site.write(word, withdrawal(taken_back, reading, model.identity))
    highest = findings[1].model_dump()["findings"][0]["label"]
    await site.write(
        feedback(findings[0], "pneumonia", number=1),
        feedback(findings[0], "no finding", number=2),  # thought better of
        feedback(findings[1], "", kind="finding-confirmed"),
        feedback(findings[2], "hernia"),
        feedback(findings[3], "pneumonia", patient_id="another"),
        feedback(findings[4], "pneumonia", target_id="gone"),
        feedback(findings[5], "", kind="alert-declined"),
        feedback(of_trial, "pneumonia"),
        feedback(findings[6], "pneumonia"),
    )
    labels = await labelled_images(site.settings, LABELS)
    assert {(one.patient_id, one.label) for one in labels.found} == {("patient-0", "no finding"), ("patient-1", highest)}
    assert (labels.found[0].image.shape, sum(labels.passed_over.values())) == ((64, 64), 7)
    assert set(labels.passed_over.values()) == {1}


def test_tasks_whose_feedback_labels_nothing_say_why(tmp_path: Path) -> None:
    for task, words in ((command.Task.NER, "which words"), (command.Task.DETERIORATION, "whether the patient deteriorated")):
        with pytest.raises(Permanent, match=words):
            command.retrain(task, tmp_path, tmp_path / "out")


def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for out, site, said in (
        (file, tmp_path / "registry.toml", "is no empty folder"),
        (file / "out", tmp_path / "registry.toml", "out cannot be made"),
        (tmp_path / "out", file / "registry.toml", "the registry .* cannot be written"),
    ):
        with pytest.raises(Permanent, match=said):
            command.retrain(command.Task.IMAGES, tmp_path, out, registry=site)


async def test_one_that_is_worse_is_not_proposed(kafka: Kafka, tmp_path: Path) -> None:
    site, registry = Clinic(kafka, tmp_path), tiny.image_text_site(tmp_path)
    findings = await ward(site, registry, range(40))
    await site.write(*[feedback(one, LABELS[(number + 1) % 2]) for number, one in enumerate(findings)])  # all of them wrong
    before = registry.read_text()
    with pytest.raises(typer.Exit):
        await asyncio.to_thread(command._run, site.settings, fixed_set(tmp_path / "fixed"), tmp_path / "new", registry, 20, 20)
    assert registry.read_text() == before
    assert json.loads((tmp_path / "new/report.json").read_text())["worse"] is True
    assert await site.read("clinical.audit") == []
