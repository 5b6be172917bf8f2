"""The readers of annotated text and the strict figures, against cases worked out by hand."""

import json
from pathlib import Path

import pytest

from models.errors import Permanent
from models.evaluation import ner_report
from models.evaluation.ner import strict
from models.evaluation.ner_corpora import Document, Gold, read_iob, read_maccrobat, sentences_of
from models.tasks import Span

IOB = """Aspirin	B-Chemical
-	I-Chemical
like	I-Chemical
for	O
chest	B-Disease
pain	I-Disease

No	O
cough	I-Disease

"""


def test_iob_becomes_characters_of_the_joined_text(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(IOB)
    one, two = read_iob(tmp_path / "x.tsv")
    assert one.text == "Aspirin - like for chest pain"
    assert [(g.label, one.text[g.start : g.end]) for g in one.gold] == [
        ("Chemical", "Aspirin - like"),
        ("Disease", "chest pain"),
    ]
    assert [two.text[g.start : g.end] for g in two.gold] == ["cough"]  # an I that follows nothing begins
    (joined,) = read_iob(tmp_path / "x.tsv", sentences=2)
    assert [joined.text[g.start : g.end] for g in joined.gold] == ["Aspirin - like", "chest pain", "cough"]


def test_neighbouring_entities_stay_two(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tB-Disease\nb\tB-Disease\nc\tI-Chemical\n")
    (document,) = read_iob(tmp_path / "x.tsv")
    assert [(g.label, document.text[g.start : g.end]) for g in document.gold] == [
        ("Disease", "a"),
        ("Disease", "b"),
        ("Chemical", "c"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Aspirin B-Chemical\nfor O\nchest B-Disease\npain I-Disease\n",
        "-DOCSTART- -X- O O\n\nAspirin NN O S-Chemical\nfor IN O O\nchest NN O B-Disease\npain NN O E-Disease\n",
        "Aspirin\tU-Chemical\r\nfor\tO\r\nchest\tB-Disease\r\npain\tL-Disease\r\n",
        "\ufeffAspirin\tNN\tS_Chemical\nfor\tIN\tO\nchest\tNN\tB_Disease\npain\tNN\tE_Disease\n",
    ],
    ids=["spaces", "CoNLL-BIOES", "BILOU", "mark"],
)
def test_iob_comes_with_spaces_and_more_columns_and_ends(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.tsv").write_bytes(text.encode())
    (document,) = read_iob(tmp_path / "x.tsv")
    assert document.text == "Aspirin for chest pain"
    assert [(g.label, document.text[g.start : g.end]) for g in document.gold] == [
        ("Chemical", "Aspirin"),
        ("Disease", "chest pain"),
    ]
    assert [corpus.documents[0].gold for corpus in ner_report.gather(tmp_path)[0]] == [document.gold]


@pytest.mark.parametrize("line", ["word", "word\tX-Disease", "word\t"])
def test_lines_that_are_no_iob_are_told_by_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.tsv").write_text(f"a\tO\n{line}\n")
    with pytest.raises(Permanent, match=r"x\.tsv:2"):
        read_iob(tmp_path / "x.tsv")


def report(*entities: tuple[str, list[list[int]]], text: str = "severe chest pain on exertion\nthen hypertension") -> str:
    return json.dumps({"id": "1", "text": text, "entities": [{"label": label, "spans": spans} for label, spans in entities]})


def test_case_reports_are_mapped_and_overlaps_settled(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(
        report(
            ("Sign_symptom", [[7, 17]]),
            ("Sign_symptom", [[13, 17]]),  # within the longer one
            ("Biological_structure", [[7, 12]]),
            ("Severity", [[0, 6]]),  # a type that we do not have
            ("History", [[35, 47]]),
            ("Medication", [[0, 6], [18, 20]]),  # in pieces
        )
    )
    (document,) = read_maccrobat(path)
    assert document.gold == (Gold("symptom", 7, 17),)
    assert document.unjudged == ((0, 20), (35, 47))
    first, second = sentences_of(document)
    assert (first.text, first.gold, first.unjudged) == ("severe chest pain on exertion", (Gold("symptom", 7, 17),), ((0, 20),))
    assert (second.text, second.gold, second.unjudged) == ("then hypertension", (), ((5, 17),))


@pytest.mark.parametrize("line", ["{", '{"id": "1"}', "[]", report(("Medication", []))])
def test_lines_that_are_no_case_report_are_told_by_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(report() + "\n" + line + "\n")
    with pytest.raises(Permanent, match=r"train\.jsonl:2"):
        read_maccrobat(path)


DOCUMENTS = [
    Document("a", "fever and cough", (Gold("symptom", 0, 5), Gold("symptom", 10, 15)), ((6, 9),)),
    Document("b", "aspirin", (Gold("medication", 0, 7),)),
]
SAID = [
    [Span("symptom", 0, 5, 0.9), Span("symptom", 10, 14, 0.9), Span("condition", 6, 9, 0.9)],
    [Span("medication", 0, 7, 0.9), Span("medication", 0, 7, 0.8)],
]


def test_only_the_exact_span_and_type_count() -> None:
    figures = strict(DOCUMENTS, SAID)
    assert (figures.micro.hits, figures.micro.predicted, figures.micro.n) == (2, 4, 3)  # the doubled span counts once
    assert figures.micro.precision == pytest.approx(1 / 2)
    assert figures.micro.recall == pytest.approx(2 / 3)
    assert figures.micro.f1 == pytest.approx(4 / 7)
    assert figures.by_label["symptom"].f1 == pytest.approx(1 / 2)


def test_unjudged_stretches_can_be_left_out() -> None:
    assert strict(DOCUMENTS, SAID, skip_unjudged=True).micro.predicted == 3


def test_labels_are_renamed_and_chosen() -> None:
    said = {"symptom": "Disease", "condition": "Disease"}
    gold = {"symptom": "Disease"}
    assert strict(DOCUMENTS, SAID, predicted_as=said, gold_as=gold).micro.hits == 1
    assert strict(DOCUMENTS, SAID, only=["medication"]).micro.f1 == 1.0


def test_nothing_said_and_nothing_there_is_nought_not_an_error() -> None:
    empty = strict([Document("a", "x", ())], [[]])
    assert (empty.micro.f1, empty.micro.precision, empty.micro.recall) == (0.0, 0.0, 0.0)
    assert strict([], []).micro.n == 0


def test_predictions_must_match_documents() -> None:
    with pytest.raises(ValueError, match="as many"):
        strict(DOCUMENTS, [[]])


def test_the_interval_is_wider_for_fewer_documents() -> None:
    few = strict(DOCUMENTS * 5, SAID * 5).metrics()
    many = strict(DOCUMENTS * 100, SAID * 100).metrics()
    for less, more in zip(few, many, strict=True):
        assert more.low <= more.value <= more.high
        assert more.high - more.low < less.high - less.low


def test_spans_of_one_document_hang_together() -> None:
    """Half of the documents are found whole, half not at all: 100 of 200 spans are no 200 independent trials."""
    spans = [[Span("test", 10 * at, 10 * at + 5, 1.0) for at in range(10)]]
    gold = [Document("x", "x" * 100, tuple(Gold("test", 10 * at, 10 * at + 5) for at in range(10)))]
    away = [Document("y", "x" * 100, tuple(Gold("test", 10 * at, 10 * at + 4) for at in range(10)))]
    for metric in strict(gold * 10 + away * 10, spans * 20).metrics():
        assert (metric.value, metric.n) == (0.5, 20)
        assert metric.high - metric.low > 0.35  # by span, as Wilson counts, .431 to .569


def test_a_label_of_few_documents_has_no_interval_however_many_there_are() -> None:
    rare = [Document("y", "fever", (Gold("symptom", 0, 5),))] * 9
    figures = strict(rare + [Document("x", "x", ())] * 50, [[Span("symptom", 0, 5, 1.0)]] * 9 + [[]] * 50)
    for metric in figures.metrics():
        assert (metric.value, metric.n, str(metric)) == (1.0, 9, "1.000 (too few for an interval)")


def test_another_on_the_same_documents_stands_beside_with_the_paired_difference() -> None:
    mine, other = (strict(DOCUMENTS * 20, said * 20) for said in (SAID, [SAID[0], []]))
    f1, precision, recall = mine.metrics(beside={"other": other})
    assert recall.baselines["other"].value == pytest.approx(1 / 3)
    gain = recall.baselines["other"].baselines["difference"]
    assert gain.value == pytest.approx(1 / 3)
    assert 0 < gain.low < gain.value < gain.high
    assert f1.name == "micro F1"
    assert precision.baselines["other"].value == pytest.approx(1 / 3)
