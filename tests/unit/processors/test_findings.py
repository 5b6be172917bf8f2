import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.errors import Fatal, Poison
from models.tasks import ModelIdentity
from processors.events import FindingsEvent, ImageEvent, ObjectReference, Origin, Source
from processors.findings import findings_event, pixels
from tests.unit.processors.test_entities import WHEN

MODEL = ModelIdentity("clip", "1", "ab" * 32)
SOURCE = Source(topic="clinical.images", partition=0, offset=3, event_id="i1")
IMAGE = ImageEvent(
    id="i1", patient_id="p", study_uid="1.2", series_uid="1.2.3", instance_uid="1.2.3.4", modality="DX", rows=2, columns=2,
    pixels=ObjectReference(uri="ab/cd.png", sha256="0" * 64, media_type="image/png", bytes=9),
    acquired_at=WHEN, received_at=WHEN, origin=Origin(protocol="dicom"),
)  # fmt: skip


def png(array: NDArray[np.generic], format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def test_findings_are_sorted_and_marked() -> None:
    event = findings_event(IMAGE, SOURCE, np.array([0.2, 0.7, 0.6], np.float32), ("a", "b", "c"), {"a": 0.1, "b": 0.9}, MODEL)
    assert [(f.label, f.above_threshold) for f in event.findings] == [("b", False), ("c", True), ("a", True)]
    assert (event.patient_id, event.instance_uid, event.acquired_at, event.source) == ("p", "1.2.3.4", WHEN, SOURCE)
    assert FindingsEvent.model_validate_json(event.model_dump_json()) == event
    assert event.id == findings_event(IMAGE, SOURCE, [0.0], ["z"], {}, MODEL).id


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_score_that_is_no_probability_is_poison(score: float) -> None:
    with pytest.raises(Poison) as caught:
        findings_event(IMAGE, SOURCE, [0.5, score], ["a", "b"], {}, MODEL)
    assert caught.value.stage == "model"


def test_a_hair_outside_is_taken_for_rounding() -> None:
    assert findings_event(IMAGE, SOURCE, [1.00001, -0.00001], ["a", "b"], {}, MODEL).findings[0].score == 1.0


def test_scores_that_do_not_fit_the_labels_stop_the_lane() -> None:
    with pytest.raises(Fatal):
        findings_event(IMAGE, SOURCE, [0.5], ["a", "b"], {}, MODEL)


def test_grey_colour_palette_alpha_and_jpeg() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(pixels(png(grey)), grey)
    colour = np.dstack([grey, grey + 1, grey + 2])
    assert np.array_equal(pixels(png(colour)), colour)
    assert pixels(png(np.dstack([colour, grey]))).shape == (3, 4, 3)
    assert pixels(png(grey > 5)).dtype == np.uint8
    assert pixels(png(np.zeros((8, 8), np.uint8), "JPEG")).shape == (8, 8)


def test_sixteen_bits_are_scaled() -> None:
    deep = np.array([[0, 257, 32768, 65535]], np.uint16)
    assert pixels(png(deep)).tolist() == [[0, 1, 128, 255]]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(columns: int, rows: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


GOOD = png(np.zeros((16, 16), np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"not an image", GOOD[:-30], GOOD[:40], bomb(100_000, 100_000), bomb(9000, 9000), bomb(0, 5),
        png(np.zeros((4, 4), np.uint8), "TIFF"), png(np.zeros((4, 4), np.uint8), "GIF"), GOOD[:45] + b"\xff" * 9 + GOOD[54:],
    ],
    ids=["empty", "text", "truncated", "header-only", "bomb", "large", "no-columns", "tiff", "gif", "corrupt"],
)  # fmt: skip
def test_what_is_no_image_is_poison_at_decode(data: bytes) -> None:
    with pytest.raises(Poison) as caught:
        pixels(data)
    assert caught.value.stage == "decode"


@given(st.binary(max_size=60), st.integers(0, len(GOOD)))
def test_damage_gives_an_image_or_poison(damage: bytes, at: int) -> None:
    try:
        assert pixels(GOOD[:at] + damage + GOOD[at + len(damage) :]).dtype == np.uint8
    except Poison as error:
        assert error.stage == "decode"


def test_findings_of_test_traffic_say_so() -> None:
    drill = IMAGE.model_copy(update={"processing": "training"})
    assert [findings_event(one, SOURCE, [0.0], ["z"], {}, MODEL).processing for one in (IMAGE, drill)] == [
        "production",
        "training",
    ]
