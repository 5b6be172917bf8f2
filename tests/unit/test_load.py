"""The generators that benches and fault tests feed on."""

from itertools import islice

from processors.events import ImageEvent, NoteEvent, PatientEvent, VitalsEvent
from processors.findings import pixels
from processors.identity import content_hash
from tests import load


def test_vitals_are_valid_ordered_and_repeatable() -> None:
    sets = list(load.vitals(1, 300, patients=50))
    assert sets == list(load.vitals(1, 300, patients=50))
    assert [one.observed_at for one in sets] == sorted(one.observed_at for one in sets)
    assert len({one.id for one in sets}) == 300 and len({one.patient_id for one in sets}) == 50
    assert {one.id for one in sets}.isdisjoint(one.id for one in load.vitals(2, 300, patients=50))
    for one in sets:  # those that were not validated when made are valid too
        assert VitalsEvent.model_validate_json(one.model_dump_json()) == one


def test_notes_are_valid_and_all_different() -> None:
    found = list(load.notes(1, 400, patients=50))
    assert len({note.text for note in found}) == len({note.id for note in found}) == 400
    assert all(80 <= len(note.text.split()) <= 250 for note in found)
    assert all(NoteEvent.model_validate_json(note.model_dump_json()) == note for note in found[-50:])


def test_images_share_pixels_that_decode() -> None:
    objects = load.pixel_objects(1, 3, side=64)
    found = list(load.images(1, 7, objects, side=64))
    assert {image.pixels.sha256 for image in found} == {content_hash(data) for _, data in objects}
    assert all(pixels(data).shape == (64, 64) for _, data in objects)
    assert all(ImageEvent.model_validate_json(image.model_dump_json()) == image for image in found)


def test_contexts_fit_the_vitals() -> None:
    contexts = list(load.contexts(1, 50))
    assert {one.patient_id for one in contexts} == {one.patient_id for one in load.vitals(1, 50, patients=50)}
    assert sum(one.spo2_scale == 2 for one in contexts) == 2 and all(isinstance(one, PatientEvent) for one in contexts)


def test_nothing_is_held() -> None:
    assert len(list(islice(load.vitals(1, 10**9, patients=10), 20))) == 20
