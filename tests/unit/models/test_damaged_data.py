"""Every reader of data for measuring, given files that are cut short, changed, in another encoding, empty or no file at all.

It reads what is there or says in words what is wrong; it never ends in an error of its own, and never measures on half a set.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.errors import Permanent
from models.evaluation import home, home_sets, image_sets, images, ner_report, question_sets, vital_sets
from models.evaluation.home_sets import COLUMNS
from models.registry import Registry
from processors import assertion_quality
from tests import tiny_models as tiny
from tests.drawings import drawing

RANDOM = np.random.default_rng(7)
REPORT = {
    "id": "1",
    "text": "mild fever. no aspirin",
    "entities": [{"label": "Sign_symptom", "spans": [[5, 10]], "attrs": {}}, {"label": "Medication", "spans": [[15, 22]]}],
}
HOURLY = "patient,hour,HR,FiO2,SepsisLabel\n" + "".join(
    f"p{n},{h},{60 + n % 90},,{n % 2}\n" for n in range(300) for h in (1, 2)
)
EVENTS = "RecordID,minute,Parameter,Value\n" + "".join(f"{n},30,HR,{60 + n % 90}\n" for n in range(300))
OUTCOMES = "RecordID,In-hospital_death\n" + "".join(f"{n},{n % 2}\n" for n in range(300))
DIARY = "\n".join([",".join(COLUMNS), *(f"p{n},{d},1,2,16,3,{d % 2}" for n in range(60) for d in range(5))]) + "\n"
QUESTIONS = "".join(json.dumps({"transcription": f"fever {n}", "description": f"M\u00fcller {n}"}) + "\n" for n in range(300))


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(drawing(opaque=True, seed=1)).save(out, "PNG")
    return out.getvalue()


# name: the file that is damaged, what is in it, what lies beside it whole, and how it is read
Reader = Callable[[Path], Any]
READERS: dict[str, tuple[str, bytes, dict[str, bytes], Reader]] = {
    "iob": (
        "test.tsv",
        "".join(f"M\u00fcller\tO\nfever{n}\tB-Disease\n\n" for n in range(200)).encode(),
        {},
        ner_report.gather,
    ),
    "training": (
        "train.tsv",
        "".join(f"M\u00fcller\tO\nfever{n}\tB-Disease\n\n" for n in range(200)).encode(),
        {"test.tsv": b"fever\tB-Disease\n"},
        ner_report.gather,
    ),
    "reports": (
        "held.jsonl",
        "".join(json.dumps(REPORT, ensure_ascii=False) + "\n" for _ in range(50)).encode(),
        {},
        ner_report.gather,
    ),
    "assertion": (
        "held.jsonl",
        "".join(json.dumps(REPORT) + "\n" for _ in range(50)).encode(),
        {},
        lambda folder: assertion_quality.evaluate(folder, rounds=10),
    ),
    "questions": ("q.jsonl.gz", gzip.compress(QUESTIONS.encode(), mtime=0), {}, question_sets.gather),
    "notes": ("note.txt", "M\u00fcller has fever".encode(), {}, question_sets.notes_in),
    "hourly": ("hourly.csv.gz", gzip.compress(HOURLY.encode(), mtime=0), {}, vital_sets.gather),
    "hourly-plain": ("hourly.csv", HOURLY.encode(), {}, vital_sets.gather),
    "events": (
        "set-b.csv.gz",
        gzip.compress(EVENTS.encode(), mtime=0),
        {"Outcomes-b.txt": OUTCOMES.encode()},
        vital_sets.gather,
    ),
    "outcomes": ("Outcomes-b.txt", OUTCOMES.encode(), {"set-b.csv": EVENTS.encode()}, vital_sets.gather),
    "diary": ("d.csv.gz", gzip.compress(DIARY.encode(), mtime=0), {}, lambda folder: home_sets.read_csv(folder / "d.csv.gz")),
    "diaries": ("d.csv", DIARY.encode(), {}, home_sets.found_in),
    "table": (
        "labels.csv",
        b"file,label\n" + b"a.png,Pneumonia\nb.png,No finding\n" * 20,
        {"a.png": png(), "b.png": png()},
        lambda folder: image_sets.readable(image_sets.read(folder)),
    ),
    "picture": (
        "pneumonia/a.png",
        png(),
        {"normal/b.png": png()},
        lambda folder: image_sets.readable(image_sets.read(folder)),
    ),
}


def damaged(whole: bytes) -> Iterator[bytes]:
    yield b""
    yield b"\x00" * 50
    yield b"\xff\xfe" + "a\tO\n".encode("utf-16-le")
    for part in (0.01, 0.3, 0.9):
        yield whole[: int(len(whole) * part)]
    yield whole[:-1]
    for _ in range(25):
        changed = bytearray(whole)
        for at in RANDOM.integers(0, len(whole), 3).tolist():
            changed[at] ^= int(RANDOM.integers(1, 256))
        yield bytes(changed)
    yield whole.decode("latin-1").encode("utf-8")
    yield whole.replace(b"\xc3\xbc", b"\xfc")
    yield b"\xef\xbb\xbf" + whole


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_words(tmp_path: Path, name: str) -> None:
    place, whole, beside, read = READERS[name]
    path = tmp_path / place
    for other, content in {**beside, place: whole}.items():
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(content)
    read(tmp_path)  # whole, it is read
    for content in damaged(whole):
        path.write_bytes(content)
        try:
            read(tmp_path)
        except Permanent as error:
            assert "ller" not in f"{error} {error.hint}"  # nothing of what is in it
    path.unlink()
    path.mkdir()
    try:
        read(tmp_path)  # a folder in the place of the file
    except Permanent:
        pass


@pytest.mark.parametrize("name", ["questions", "hourly", "events"])
def test_a_set_that_was_cut_short_is_not_measured_on(tmp_path: Path, name: str) -> None:
    place, whole, beside, read = READERS[name]
    for other, content in {**beside, place: whole[:-20]}.items():
        (tmp_path / other).write_bytes(content)
    with pytest.raises(Permanent, match=rf"{place}: it is damaged or cut short"):
        read(tmp_path)


def test_a_byte_of_another_encoding_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_bytes(b"M\xfcller\tO\nfever\tB-Disease\n" * 5)
    with pytest.raises(Permanent, match=r"test\.tsv: it is not UTF-8") as raised:
        ner_report.gather(tmp_path)
    assert "iconv" in (raised.value.hint or "")


def test_patients_of_whom_nothing_was_measured_are_left_out_aloud(tmp_path: Path) -> None:
    (tmp_path / "set-b.csv").write_text("RecordID,minute,Parameter,Value\n1,30,HR,80\n2,90,HR,120\n3,0,Age,50\n9,5,HR,70\n")
    (tmp_path / "Outcomes-b.txt").write_text("RecordID,In-hospital_death\n" + "".join(f"{n},{n % 2}\n" for n in range(1, 9)))
    (stays,), notes = vital_sets.gather(tmp_path)
    assert stays.ids == ("1", "2", "3")
    assert np.diff(stays.starts).tolist() == [48] * 3
    assert notes == [
        "physionet2012-b: 5 of 8 patients with an outcome left out, set-b.csv has nothing of them",
        "physionet2012-b: 1 patients left out, Outcomes-b.txt has no outcome of them",
        "physionet2012-b: 1 of 3 patients have rows and no vital sign among them, scored as they are",
    ]
    (tmp_path / "Outcomes-b.txt").write_text("RecordID,In-hospital_death\n77,1\n")
    with pytest.raises(Permanent, match="has an outcome in Outcomes-b"):
        vital_sets.gather(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(8):
        for place, opaque in (("normal", False), ("pneumonia", True)):
            path = tmp_path / "set" / place / f"{place}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawing(opaque=opaque, seed=number)).save(path)
    return tmp_path / "set"


def test_pictures_that_cannot_be_read_are_passed_over_and_counted(tmp_path: Path, pictures: Path) -> None:
    whole = (pictures / "pneumonia" / "pneumonia-0.png").read_bytes()
    (pictures / "pneumonia" / "pneumonia-1.png").write_bytes(whole[:100])
    (pictures / "normal" / "normal-2.png").write_text("no picture")
    registry = Registry.load(tiny.image_text_site(tmp_path / "site"))
    model, notes = registry.open("image-text"), list[str]()
    (found,) = images.evaluate_all(model, pictures, tmp_path / "site" / "tiny-xray", rounds=20, notes=notes)
    assert (found.images, found.positive) == (14, 7)
    assert "set: 2 of 16 images passed over, they are not there or cannot be read as images" in notes
    auroc, auprc, sensitivity, specificity, alike, _ = found.metrics
    assert auroc.baselines["base rate"].value == 0.5
    assert auprc.baselines["base rate"].value == pytest.approx(0.5)
    assert (sensitivity.baselines["majority class"].value, specificity.baselines["majority class"].value) == (1.0, 0.0)
    assert alike.baselines["at random"].value == pytest.approx(6 / 13)  # of thirteen others six are of its label


def test_rows_that_name_no_picture_are_counted_and_all_of_them_refused(tmp_path: Path, pictures: Path) -> None:
    rows = "\n".join(
        ["file;label", "pneumonia/pneumonia-0.png;Pneumonia", "absent.png;Pneumonia", "normal/normal-1.png;Normal", ";Normal"]
    )
    (pictures / "labels.csv").write_text(rows, encoding="utf-8-sig")
    sets, notes = image_sets.gather(pictures)
    assert "set: 1 images of the class 'no file' passed over" in notes
    kept, note = image_sets.readable(sets["set"])
    assert (len(kept), note.startswith("1 of 3 images")) == (2, True)
    for path in pictures.glob("*/*.png"):
        path.write_text("no picture")
    registry = Registry.load(tiny.image_text_site(tmp_path / "site"))
    with pytest.raises(Permanent, match="3 of 3 images passed over"):
        images.evaluate_all(registry.open("image-text"), pictures, tmp_path / "site" / "tiny-xray", rounds=20)


def test_a_diary_as_excel_writes_it_is_found_and_measured(tmp_path: Path) -> None:
    lines = [";".join((*COLUMNS,)), *(f"p{n};{d};1,5;2;16;{d % 7};{int(d == 9)}" for n in range(4) for d in range(12))]
    (tmp_path / "d.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    found = home.evaluate_all(Registry.load().open("deterioration-home"), tmp_path, tmp_path, rounds=20)
    assert found.sections[0].metrics[0].name == "AUROC"
