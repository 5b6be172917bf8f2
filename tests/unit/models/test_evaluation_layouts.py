"""Every layout found by what is in its files, whatever they are called; nothing passed over without a word."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import Permanent
from models.evaluation import image_sets, ner_report, plots, vital_sets
from models.evaluation.measures import Metric
from models.evaluation.ner import counted_as
from models.evaluation.report import Confusion, Curves, Evaluation, Ranking, Reliability, Section
from models.registering import holder, previous, promote, record, rollback
from models.registry import ModelEntry, Registry
from models.runtimes.token_classifier import OnnxTokenClassifier, WindowedTagger
from tests import tiny_models as tiny

IOB = "mild\tO\nfever\tB-symptom\n.\tO\n\naspirin\tB-medication\n"
REPORT = {
    "id": "1",
    "text": "mild fever. aspirin",
    "entities": [{"label": "Sign_symptom", "spans": [[5, 10]]}, {"label": "Medication", "spans": [[12, 19]]}],
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        with gzip.open(path, "wt") as file:
            file.write(text)
    else:
        path.write_text(text)
    return path


def test_annotated_text_of_any_name_is_measured_and_the_rest_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "held-2.tsv", IOB)
    write(tmp_path / "a" / "train.tsv", IOB)
    write(tmp_path / "b" / "reports.jsonl", json.dumps(REPORT) + "\n")
    write(tmp_path / "c" / "ward.txt", "# ward round\nno [fever|symptom]\n---\n[aspirin|medication] given\n")
    write(tmp_path / "readme.txt", "Nothing [is marked] here.\n")
    write(tmp_path / "other.tsv", "id\tname\n1\tx\n")
    write(tmp_path / "questions.jsonl", '{"question": "?"}\n')
    corpora, notes = ner_report.gather(tmp_path)
    assert [corpus.name for corpus in corpora] == ["a/held-2.tsv", "b/reports.jsonl", "c/ward.txt"]
    for left_out in ("a/train.tsv", "other.tsv", "questions.jsonl", "readme.txt"):
        assert sum(note.startswith(left_out) for note in notes) == 1
    assert ner_report.gather(tmp_path / "a" / "held-2.tsv")[0][0].name == "held-2.tsv"


def test_a_folder_without_annotated_text_says_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "other.tsv", "id\tname\n")
    with pytest.raises(Permanent, match=r"other\.tsv: passed over") as error:
        ner_report.gather(tmp_path)
    assert "IOB" in (error.value.hint or "")


def test_a_set_is_measured_by_the_head_of_its_guide_and_as_served(tmp_path: Path) -> None:
    heads = [
        {"name": "clinical", "tags": list(tiny.TAGS)},
        {"name": "chemical-disease", "tags": ["O", "B-Chemical", "I-Chemical", "B-Disease", "I-Disease"]},
        {"name": "disease", "tags": ["O", "B-Disease", "I-Disease"]},
    ]
    table = np.zeros((len(tiny.TOKENS), 13), np.float32)
    table[:, [0, 5, 10]] = 8.0
    for word, columns in {"fever": (0, 10, 11), "aspirin": (5, 6)}.items():  # one head finds the fever, another the drug
        for first in columns:
            table[tiny.IDS[word], first] = 0.0 if first in (0, 5, 10) else 8.0
    table[tiny.IDS["fever"], 1] = 8.0
    folder = tiny.classifier_folder(tmp_path / "model", table)
    model = OnnxTokenClassifier(tiny.weights_of(folder, preprocessing={"heads": heads, "serve": ["clinical"]}), threads=1)
    text = "fever\tB-Disease\n.\tO\n\naspirin\tB-Chemical\n"
    write(tmp_path / "data" / "bc5cdr" / "test.tsv", text)
    write(tmp_path / "data" / "ncbi" / "test.tsv", "fever\tB-Disease\n")
    found = ner_report.evaluate(model, tmp_path / "data", resamples=20)
    values = {metric["name"]: metric["value"] for metric in found.as_json()["metrics"]}
    assert values["bc5cdr/test.tsv, own guide: Chemical F1"] == 1.0
    assert values["bc5cdr/test.tsv, own guide: Disease F1"] == 0.0
    assert values["bc5cdr/test.tsv, served: Disease recall"] == 1.0
    assert values["bc5cdr/test.tsv, served: Chemical recall"] == 0.0
    assert values["ncbi/test.tsv, own guide: micro F1"] == 1.0


def classifier(tmp_path: Path, tags: list[str], **words: str) -> OnnxTokenClassifier:
    table = np.zeros((len(tiny.TOKENS), len(tags)), np.float32)
    table[:, 0] = 8.0
    for word, tag in words.items():
        table[tiny.IDS[word]] = 0.0
        table[tiny.IDS[word], tags.index(tag)] = 8.0
    folder = tiny.classifier_folder(tmp_path / "model", table)
    return OnnxTokenClassifier(tiny.weights_of(folder, preprocessing={"heads": [{"name": "own", "tags": tags}]}), threads=1)


def test_a_model_counts_by_the_names_of_its_types_and_what_the_set_lacks_counts_neither_way(tmp_path: Path) -> None:
    tags = ["O", "B-CHEMICAL", "B-Disease", "B-Gene"]
    model = classifier(tmp_path, tags, fever="B-Disease", aspirin="B-CHEMICAL", cough="B-Gene")
    text = "fever\tB-Disease\n.\tO\n\naspirin\tB-Chemical\ncough\tO\n"
    write(tmp_path / "data" / "test.tsv", text)
    found = ner_report.evaluate(model, tmp_path / "data", thresholds="a site's", resamples=20)
    values = {metric["name"]: metric["value"] for metric in found.as_json()["metrics"]}
    assert values["test.tsv, own guide: micro F1"] == values["test.tsv, served: micro F1"] == 1.0
    assert "a site's; not counted, the set has no such type: Gene" in found.sections[1].about


def test_what_counts_as_a_sets_type_is_told_by_the_heads_that_serve_alone() -> None:
    model = Registry.load(None).open("ner", name="clinical-ner", expect=WindowedTagger)
    as_diseases = {"condition": "Disease", "symptom": "Disease"}  # though a head that does not serve has a Disease of its own
    assert counted_as(model, {*model.labels}, frozenset({"Disease"})) == as_diseases
    both = frozenset({"Chemical", "Disease"})
    assert counted_as(model, {*model.labels}, both) == as_diseases | {"medication": "Chemical"}
    guide = model.speaking(model.heads["chemical-disease"])
    assert counted_as(guide, {*guide.labels}, both) == {"condition": "Disease", "medication": "Chemical"}


def test_a_model_without_a_type_of_the_set_is_not_called_worthless(tmp_path: Path) -> None:
    model = classifier(tmp_path, ["O", "B-Gene"], cough="B-Gene")
    write(tmp_path / "data" / "test.tsv", "fever\tB-Disease\ncough\tO\n")
    with pytest.raises(Permanent, match="publishes Gene, the set has Disease") as raised:
        ner_report.evaluate(model, tmp_path / "data", resamples=20)
    assert "types" in (raised.value.hint or "")


def test_a_dictionary_of_the_training_part_stands_beside_or_it_is_said_why_not(tmp_path: Path) -> None:
    model = classifier(tmp_path, ["O", "B-Disease"], cough="B-Disease")
    write(tmp_path / "data" / "train.tsv", "Fever\tB-Disease\nmild\tB-Disease\nmild\tO\nmild\tO\n")
    held = write(tmp_path / "data" / "held.tsv", "mild\tO\nfever\tB-Disease\ncough\tB-Disease\n")
    found = ner_report.evaluate(model, tmp_path / "data", resamples=20)
    _, precision, recall = found.sections[0].metrics
    assert (precision.value, precision.baselines["dictionary"].value) == (1.0, 1.0)  # "mild" is mostly no mention there
    assert (recall.value, recall.baselines["dictionary"].value) == (0.5, 0.5)
    write(tmp_path / "alone" / "held.tsv", held.read_text())
    alone = ner_report.evaluate(model, tmp_path / "alone", resamples=20)
    assert not alone.sections[0].metrics[0].baselines
    assert any("training part is not at hand" in note for note in alone.notes)


HOURLY = "patient,hour,HR,O2Sat,Temp,SBP,MAP,DBP,Resp,FiO2,SepsisLabel\n" + "".join(
    f"p{patient},{hour},80,97,,,,,,,{int(patient == 1 and hour > 2)}\n" for patient in (1, 2) for hour in range(5)
)
EVENTS = "RecordID,minute,Parameter,Value\n152901,30,HR,80\n152902,90,HR,120\n"
OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n152901,6,1,5,-1,0\n152902,6,1,5,2,1\n"


def test_vital_signs_are_told_by_their_columns(tmp_path: Path) -> None:
    write(tmp_path / "held" / "other_patients.csv.gz", HOURLY)
    write(tmp_path / "c" / "set-c.csv.gz", EVENTS)
    write(tmp_path / "c" / "Outcomes-c.txt", OUTCOMES)
    write(tmp_path / "plain" / "events.csv", EVENTS)
    write(tmp_path / "plain" / "deaths.txt", OUTCOMES)
    write(tmp_path / "x.csv.gz", "a,b\n")
    sets, notes = vital_sets.gather(tmp_path)
    assert [stays.name for stays in sets] == ["physionet2012-c", "cinc2019", "physionet2012-events"]
    assert [stays.labels.max() for stays in sets] == [1.0, 1.0, 1.0]
    assert notes == ["x.csv.gz: passed over, its columns are no known set's"]


def test_patients_are_known_again_under_another_file_name(tmp_path: Path) -> None:
    write(tmp_path / "renamed.csv", EVENTS)
    write(tmp_path / "Outcomes.txt", OUTCOMES)
    stays = vital_sets.gather(tmp_path)[0][0]
    assert vital_sets.unseen(stays, stays.checksums()[:1]).ids == ("152902",)


def test_a_sites_own_patients_are_not_taken_for_others_of_their_number(tmp_path: Path) -> None:
    for name, text in (("public", EVENTS), ("ours", EVENTS.replace("HR,80", "HR,81"))):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "set-a.csv", text)
        write(tmp_path / name / "Outcomes-a.txt", OUTCOMES)
    public, ours = (vital_sets.gather(tmp_path / name)[0][0] for name in ("public", "ours"))
    assert ours.ids == public.ids
    assert vital_sets.unseen(ours, public.checksums()).ids == ("152901",)


def test_measurements_without_outcomes_name_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "set-c.csv.gz", EVENTS)
    with pytest.raises(Permanent, match=r"looked for Outcomes-c\.txt"):
        vital_sets.gather(tmp_path)


def test_images_are_found_in_class_folders_below_and_others_are_named(tmp_path: Path) -> None:
    for name in ("held/Pneumonia/00000013_005.png", "held/No-Findings/x_1.png", "held/No-Findings/x_2.png", "held/Mass/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    write(tmp_path / "captions" / "labels.csv", "file,caption\na.png,words\n")
    sets, notes = image_sets.gather(tmp_path)
    assert {(image.label, image.patient) for image in sets["held"]} == {
        ("pneumonia", "00000013"),
        ("no finding", "No-Findings/x_1.png"),  # no number of a patient in the name: each file is its own
        ("no finding", "No-Findings/x_2.png"),
    }
    assert sorted(notes) == [
        "captions/labels.csv: passed over, it has no columns file and label",
        "held: 1 images of the class 'Mass' passed over",
    ]


def section() -> Section:
    random = np.random.default_rng(0)
    labels = (random.random(200) < 0.05).astype(float)
    charts = (
        Ranking("scores", labels, {"model": labels + random.random(200), "other": random.random(200)}),
        Reliability("scores", ((0.1, 0.0, 5), (0.6, 0.7, 5)), "positive"),
        Confusion("kinds", ("a", "b"), ("a", "b", "missed"), np.array([[3, 1, 0], [0, 4, 2]])),
        Curves("recall", "k", "recall@k", {"model": ([1, 2, 3], [0.1, 0.2, 0.3])}, logarithmic=True),
    )
    other = Metric("m", 0.4, 0.3, 0.5, 9, {"difference": Metric("m", 0.1, 0.0, 0.2, 9)})
    return Section(
        "a set", "9 items", (Metric("m", 0.5, 0.4, 0.6, 9, {"other": other}), Metric("n", float("nan"), 0, 1, 9)), charts
    )


def test_the_report_is_json_without_nan_and_says_every_figure() -> None:
    found = Evaluation("ner", None, (section(),), ("one file left out",))
    raw = json.loads(json.dumps(found.as_json(), allow_nan=False))
    first, second = raw["metrics"]
    assert first == {
        "name": "a set: m",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 9,
        "baselines": first["baselines"],
    }
    assert first["baselines"]["other"]["value"] == 0.4
    assert second["value"] is None
    assert (
        "0.500 (0.400 to 0.600) | 9 | other 0.400 (0.300 to 0.500), difference +0.100 (+0.000 to +0.200)" in found.as_markdown()
    )
    assert "one file left out" in found.as_markdown()
    assert found.quality() == {"a set: m": 0.5}


def test_a_figure_without_an_interval_says_so_and_is_null() -> None:
    nan = float("nan")
    metrics = (Metric("precision", nan, nan, nan, 0), Metric("AUROC", 1.0, nan, nan, 3))
    found = Evaluation("ner", None, (Section("few", "3 items", metrics),))
    raw = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [(one["value"], one["low"], one["high"]) for one in raw["metrics"]] == [(None, None, None), (1.0, None, None)]
    assert "| precision | - | 0 |" in found.as_markdown()
    assert "| AUROC | 1.000 (too few for an interval) | 3 |" in found.as_markdown()
    assert "not as a measurement" in found.as_markdown()


def test_every_kind_of_chart_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = plots.draw(Evaluation("ner", None, (section(),)), tmp_path)
    assert [path.stem.rsplit("-", 1)[1] for path in made] == ["roc", "pr", "calibration", "confusion", "curve"]
    for path in made:
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10  # ink of several shades, not an empty sheet


def test_the_legend_of_many_curves_covers_none_and_no_two_are_drawn_alike(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    chart = Curves("many", "recall", "precision", {f"type {n}": ([0.1, 0.5, 0.9], [0.1, 0.1 + n / 20, 0.1]) for n in range(9)})
    sheet = Figure(figsize=plots._size(chart), layout="constrained")
    axes = sheet.add_subplot()
    plots._curves(axes, chart)
    sheet.savefig(tmp_path / "x.png")
    legend = axes.get_legend()
    assert legend is not None
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}) == 9


def test_promotion_is_a_line_in_the_sites_file_and_can_be_taken_back(tmp_path: Path) -> None:
    folder = tiny.classifier_folder(tmp_path / "tiny")
    site = tmp_path / "site.toml"
    entry = tiny.entry_of(folder)
    record(entry, site)
    before = promote("ner", "clinical-ner", site)
    assert before == "tiny"  # the site's first model of a task serves it
    assert Registry.load(site).champion("ner") == "clinical-ner"
    assert previous("ner", site) == "tiny"
    assert rollback("ner", site) == "tiny"
    assert Registry.load(site).champion("ner") == "tiny"
    with pytest.raises(Permanent, match="no earlier model"):  # and never to the one that was left
        rollback("ner", site)
    record(tiny.entry_of(folder, name="third"), site)
    for name in ("clinical-ner", "third"):
        promote("ner", name, site)
    assert [rollback("ner", site) for _ in range(2)] == ["clinical-ner", "tiny"]
    assert holder(entry, site) == site
    assert holder(Registry.load().entry("embedding"), site) != site
    with pytest.raises(Permanent, match="no earlier model"):
        previous("embedding", site)
    with pytest.raises(Permanent, match="unknown model"):
        promote("ner", "nobody", site)
    assert isinstance(entry, ModelEntry)


def test_a_bracket_that_is_no_mark_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "ward.txt", "no [fever|symptom]\n---\n[ECG|test\n")
    with pytest.raises(Permanent, match=r"ward\.txt:3: .* belongs to no mark"):
        ner_report.gather(path)
