"""Which pictures an image model is asked about, by what archives say of them."""

from typing import Any

import pytest

from models.registry import MeantFor, Registry
from processors.findings import not_judged
from processors.meant import unmeant
from tests.unit.processors.test_findings import IMAGE, MODEL, SOURCE

CHEST = Registry.load().entry("image-text").meant_for


def why(meant: MeantFor | None = CHEST, **said: Any) -> str:
    return unmeant(IMAGE.model_copy(update={"modality": "DX", "body_part": "", "view": "", "described": (), **said}), meant)


@pytest.mark.parametrize(
    "said",
    [
        {"body_part": "CHEST", "view": "PA"},
        {"body_part": "CHEST", "modality": "CR"},  # (0018,5101) is often empty there
        {"body_part": "Thorax", "modality": "rg", "view": "AP ERECT"},
        {"body_part": "CHEST_AP PORTABLE"},
        {"body_part": "T\u00d3RAX"},
        {"body_part": "Thoracic structure", "view": "postero-anterior"},  # the meanings of codes
        {"body_part": "51185008"},
        {"body_part": "UNKNOWN", "described": ("CXR",)},
        {"described": ("PA", "XR CHEST 2 VIEWS")},
        {"described": ("R\u00f6ntgen Thorax p.a. im Stehen",)},
        {"described": ("PA", "XR CHEST PA AND LATERAL")},  # the series is nearer than the study
        {"view": "PA", "described": ("XR CHEST PA AND LATERAL",)},
    ],
)
def test_a_frontal_chest_is_known_by_whatever_names_it(said: dict[str, Any]) -> None:
    assert why(**said) == ""


@pytest.mark.parametrize(
    ("said", "because"),
    [
        ({"modality": "CT", "body_part": "CHEST"}, "another modality"),
        ({"modality": "CT", "body_part": "HEAD"}, "another modality"),
        ({"modality": "OT", "body_part": "CHEST"}, "another modality"),  # a capture: of what nobody knows
        ({"modality": "XC", "body_part": "Chest"}, "another modality"),
        ({"body_part": "HAND"}, "another body part"),
        ({"body_part": "CHESTABDOMEN"}, "another body part"),
        ({"body_part": "HAND", "described": ("XR CHEST",)}, "another body part"),
        ({"described": ("PA", "XR CHEST AND WRIST")}, "another body part"),
        ({"described": ("CHEST WALL",)}, "another body part"),
        ({}, "unknown body part"),
        ({"described": ("PA", "X-RAY 2 VIEWS")}, "unknown body part"),
        ({"body_part": "CHEST", "view": "LL"}, "another view"),
        ({"body_part": "CHEST", "view": "SWIMMERS"}, "another view"),
        ({"body_part": "CHEST", "described": ("LATERAL", "XR CHEST PA AND LATERAL")}, "another view"),
        ({"body_part": "CHEST", "described": ("XR CHEST PA AND LATERAL",)}, "another view"),  # which of the two nobody says
    ],
)
def test_of_another_picture_nothing_is_said_and_the_reason_is(said: dict[str, Any], because: str) -> None:
    found = why(**said)
    assert found.startswith(because)
    image = IMAGE.model_copy(update=said)
    event = not_judged(image, SOURCE, found, MODEL)
    assert (event.findings, event.not_judged, event.image_status) == ((), found, "final")
    assert (event.modality, event.body_part, event.view) == (image.modality, image.body_part, image.view)


def test_a_site_says_what_counts() -> None:
    assert why(None, modality="CT") == ""
    assert why(MeantFor(), modality="CT") == ""
    any_part = MeantFor(modalities=("DX",), body_parts=("CHEST", ""))
    assert why(any_part) == ""
    assert why(any_part, body_part="HAND").startswith("another body part")
    assert why(MeantFor(views=("LL", "left lateral")), view="Left Lateral") == ""
    assert why(MeantFor(body_parts=("RTG KLP",)), described=("RTG KLP PA",)) == "", (
        "a listed word counts even where it says how"
    )
