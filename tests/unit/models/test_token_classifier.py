"""Entities from texts of any length: characters of the text as given, windows without seams, and what a loader refuses."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer

from models.errors import Fatal, Permanent, Poison
from models.registry import Registry
from models.runtimes.tagging import Head
from models.runtimes.token_classifier import WindowedTagger, clear_of, load, windows
from models.tasks import ModelIdentity, Span, TokenClassifier
from tests import tiny_models as tiny

IDENTITY = ModelIdentity("tiny", "1", "0" * 64)
TABLE = tiny.scores()
ONLY = Head("only", tiny.TAGS)


def tagger(window: int = 4096, overlap: int = 0, **changes: Any) -> WindowedTagger:
    return WindowedTagger(IDENTITY, tiny.tokenizer(), lambda ids: TABLE[ids], [ONLY], window=window, overlap=overlap, **changes)


def texts_of(text: str, spans: list[Span]) -> list[tuple[str, str]]:
    return [(s.label, text[s.start : s.end]) for s in spans]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \r\n\t ", []),
        ("Fever", [("symptom", "Fever")]),
        ("no fever.\r\nMild COUGH,\r\nASPIRIN 75", [("symptom", "fever"), ("symptom", "COUGH"), ("medication", "ASPIRIN")]),
        ("chest\r\n pain", [("symptom", "chest\r\n pain")]),
        ("\u2764\ufe0f\U0001f469\u200d\u2695\ufe0f fever \U0001f321\ufe0f", [("symptom", "fever")]),
        ("fe\u0301ver, f\u00e9ver", [("symptom", "fe\u0301ver"), ("symptom", "f\u00e9ver")]),  # accents are dropped to look up
        ("cough\u0301 a", [("symptom", "cough\u0301")]),  # a mark on the last letter belongs to it
        ("fe\u200bver\x00 pain", [("symptom", "fe\u200bver\x00 pain")]),
    ],
)
def test_spans_are_characters_of_the_text_as_given(text: str, expected: list[tuple[str, str]]) -> None:
    (spans,) = tagger().find([text])
    if "\x00" in text:  # what invisible characters do to the path is the tokenizer's business; the offsets are ours
        assert all(0 <= s.start < s.end <= len(text) for s in spans)
    else:
        assert texts_of(text, spans) == expected


PIECES = st.sampled_from(
    [*tiny.WORDS, *tiny.PUNCTUATION, " ", "\r\n", "\t", "e\u0301", "\u00e5", "\U0001f600", "\u200d", "\ufeff", "zq9"]
)
NOTES = st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=80)


@given(NOTES)
@example("\u0301fever")
@example("fever\u00a0")
@example("\u3000pain\u3000")
def test_offsets_lie_in_the_text_in_order_and_hold_no_white_space_at_their_ends(text: str) -> None:
    (spans,) = tagger(window=12, overlap=4).find([text])
    assert all(0 <= s.start < s.end <= len(text) and 0.0 <= s.score <= 1.0 for s in spans)
    assert all(text[s.start : s.end].strip() == text[s.start : s.end] for s in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


@given(st.lists(PIECES, max_size=120).map("".join), st.integers(8, 40), st.integers(0, 5))
def test_windows_leave_no_seams(text: str, window: int, overlap: int) -> None:
    """A model that reads each word alone must find the same however the text is cut."""
    assert tagger(window, overlap).find([text]) == tagger().find([text])


@given(st.integers(0, 3000), st.integers(8, 300), st.data())
def test_windows_keep_each_token_once_with_context_on_both_sides(tokens: int, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room - 1))
    cut = windows(tokens, room, overlap)
    assert [token for _, _, a, b in cut for token in range(a, b)] == list(range(tokens))
    for start, end, keep_from, keep_to in cut:
        assert 0 <= start <= keep_from <= keep_to <= end <= tokens
        assert end - start <= room
        assert start == 0 or keep_from - start >= overlap // 2
        assert end == tokens or end - keep_to >= overlap // 2


def test_each_word_is_read_where_it_has_most_context() -> None:
    """A model whose score is its place in the window: what is kept must be the places nearest the window's middle."""
    room, overlap = 10, 4

    def places(ids: np.ndarray) -> np.ndarray:
        made = np.zeros((*ids.shape, 2), dtype=np.float32)
        made[0, :, 0] = np.arange(ids.shape[1])
        return made

    model = WindowedTagger(IDENTITY, tiny.tokenizer(), places, [Head("h", ("O", "B-x"))], window=room + 2, overlap=overlap)
    ids = np.full(22, tiny.IDS["a"])
    kept = model._token_logits(ids)[:, 0] - 1
    assert kept.min() == 0
    assert list(kept[:8]) == list(range(8))
    assert all(2 <= place <= 7 for place in kept[8:-8])


def test_a_note_of_100_000_characters_never_fills_more_than_a_window() -> None:
    sizes: list[int] = []

    def emit(ids: np.ndarray) -> np.ndarray:
        sizes.append(ids.size)
        return TABLE[ids]

    model = WindowedTagger(IDENTITY, tiny.tokenizer(), emit, [ONLY], window=256, overlap=64)
    text = "mild chest pain, aspirin. " * 4000
    (spans,) = model.find([text])
    assert len(text) > 100_000
    assert len(spans) == 8000
    assert max(sizes) <= 256
    assert sum(sizes) < 1.5 * 24_000


def test_thresholds_are_by_published_label() -> None:
    model = tagger(thresholds={"symptom": 1.0})
    assert texts_of("fever aspirin", model.find(["fever aspirin"])[0]) == [("medication", "aspirin")]


def test_heads_speak_in_order_of_precedence_and_never_over_each_other() -> None:
    wide = np.concatenate([TABLE, TABLE[:, [0, 3, 4, 1, 2]]], axis=1)  # a second head that holds the opposite
    second = Head("second", tiny.TAGS, first=5)
    only_drugs = Head("first", tiny.TAGS, types={"medication": "drug"})
    model = WindowedTagger(IDENTITY, tiny.tokenizer(), lambda ids: wide[ids], [only_drugs, second])
    text = "fever aspirin"
    assert texts_of(text, model.find([text])[0]) == [("medication", "fever"), ("drug", "aspirin")]
    assert texts_of(text, model.speaking(second).find([text])[0]) == [("medication", "fever"), ("symptom", "aspirin")]
    assert model.labels == ("drug", "symptom", "medication")


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=12).map(
    lambda rows: [Span("x", start, start + length, 1.0) for start, length in sorted(rows)]
)


@given(SPANS, SPANS)
def test_what_overlaps_nothing_is_kept(spans: list[Span], others: list[Span]) -> None:
    taken: list[Span] = []
    for span in others:
        if not taken or taken[-1].end <= span.start:
            taken.append(span)
    assert clear_of(spans, taken) == [s for s in spans if all(s.end <= t.start or t.end <= s.start for t in taken)]


def test_cost_grows_with_the_text() -> None:
    assert 0 < tagger().cost("") < tagger().cost("fever " * 10) < tagger().cost("fever " * 1000)


def test_a_result_does_not_depend_on_its_neighbours() -> None:
    texts = ["fever and cough", "aspirin", "", "chest pain " * 50]
    model = tagger(window=24, overlap=4)
    assert model.find(texts) == [model.find([text])[0] for text in texts]


# --- from files ---

onnx = pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")


def test_a_folder_becomes_a_token_classifier(tmp_path: Path) -> None:
    model = load(tiny.weights_of(tiny.classifier_folder(tmp_path)), threads=1)
    assert isinstance(model, TokenClassifier)
    assert model.find(["fever"]) == tagger().find(["fever"])


def test_no_label_map_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"tiny 1: no label map"):
        load(tiny.weights_of(tiny.classifier_folder(tmp_path), preprocessing={}), threads=1)


@pytest.mark.parametrize(
    ("preprocessing", "says"),
    [
        ({"heads": [{"name": "h", "tags": ["O", "B-x"]}]}, "5 scores a token, its label map names 2 tags"),
        ({"heads": [{"name": "h", "tags": ["O", "LABEL_1", "a", "b", "c"]}]}, "'LABEL_1' is no BIO tag"),
        ({"heads": [{"tags": ["O"]}]}, "each needs a name and tags"),
        ({"heads": ["h"]}, "each needs a name and tags"),
        ({"heads": [{"name": "h", "tags": list(tiny.TAGS)}], "serve": ["other"]}, "names no head: other"),
        ({"heads": [{"name": "h", "tags": list(tiny.TAGS)}], "window": 10, "overlap": 9}, "overlap 9 does not fit"),
    ],
)
def test_a_label_map_that_does_not_fit_is_fatal(tmp_path: Path, preprocessing: dict[str, Any], says: str) -> None:
    with pytest.raises(Fatal) as caught:
        load(tiny.weights_of(tiny.classifier_folder(tmp_path), preprocessing=preprocessing), threads=1)
    assert says in str(caught.value)
    assert "tiny" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08\x12\x04abcd" * 40])
def test_bytes_that_are_no_graph_are_fatal(tmp_path: Path, content: bytes) -> None:
    folder = tiny.classifier_folder(tmp_path)
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(Fatal, match=r"model\.onnx is no model"):
        load(tiny.weights_of(folder), threads=1)


def test_a_truncated_graph_is_fatal(tmp_path: Path) -> None:
    folder = tiny.classifier_folder(tmp_path)
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(Fatal, match=r"model\.onnx is no model"):
        load(tiny.weights_of(folder), threads=1)


def test_a_file_that_is_no_tokenizer_is_fatal(tmp_path: Path) -> None:
    folder = tiny.classifier_folder(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(Fatal, match=r"tokenizer\.json is no tokenizer"):
        load(tiny.weights_of(folder), threads=1)


def test_a_graph_of_another_kind_is_fatal(tmp_path: Path) -> None:
    folder = tiny.classifier_folder(tmp_path)
    tiny.write_table(folder / "model.onnx", TABLE, output="pixels")
    with pytest.raises(Fatal, match="the graph has no logits"):
        load(tiny.weights_of(folder), threads=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_poison_of_the_model(tmp_path: Path, bad: float) -> None:
    table = TABLE.copy()
    table[tiny.IDS["cough"], 1] = bad
    model = load(tiny.weights_of(tiny.classifier_folder(tmp_path, table)), threads=1)
    assert model.find(["fever"])[0]
    with pytest.raises(Poison, match="not finite") as caught:
        model.find(["secretname cough"])
    assert caught.value.stage == "model"
    assert "secretname" not in str(caught.value)


def test_a_run_that_fails_is_poison_without_the_text(tmp_path: Path) -> None:
    table = TABLE[:10]  # fewer rows than the tokenizer has tokens: the look-up fails for letters
    model = load(tiny.weights_of(tiny.classifier_folder(tmp_path, table)), threads=1)
    assert model.find(["fever"])[0]
    with pytest.raises(Poison, match="the run failed") as caught:
        model.find(["zz"])
    assert caught.value.stage == "model"


def test_a_tokenizer_that_leaves_capitals_to_a_vocabulary_of_small_letters_is_known() -> None:
    assert not tagger().blind_to_capitals
    leaving = tiny.tokenizer()
    leaving.normalizer = BertNormalizer(lowercase=False)
    assert WindowedTagger(IDENTITY, leaving, lambda ids: TABLE[ids], [ONLY], overlap=0).blind_to_capitals


def test_a_device_whose_libraries_do_not_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime goes on with the CPU then, and says so in a log line of its own alone."""
    opened, cuda = onnxruntime.InferenceSession, "CUDAExecutionProvider"

    def on_the_cpu(*arguments: Any, providers: list[str], enable_fallback: int, **options: Any) -> Any:
        assert providers == [cuda] and not enable_fallback
        return opened(*arguments, providers=["CPUExecutionProvider"], **options)

    # Stands for a machine whose CUDA libraries do not load: tests have none with a GPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    preprocessing = {"heads": [{"name": "only", "tags": list(tiny.TAGS)}], "device": "cuda"}
    entry = tiny.entry_of(tiny.classifier_folder(tmp_path / "tiny"), preprocessing=preprocessing)
    path = tiny.toml_of(entry, tmp_path / "site.toml")
    with pytest.raises(Permanent, match="on CPUExecutionProvider, not on the device 'cuda'"):
        Registry.load(path).open("ner")


def test_an_unknown_device_is_told(tmp_path: Path) -> None:
    from models.errors import Permanent

    preprocessing = {"heads": [{"name": "only", "tags": list(tiny.TAGS)}], "device": "abacus"}
    with pytest.raises(Permanent, match="no device 'abacus'"):
        load(tiny.weights_of(tiny.classifier_folder(tmp_path), preprocessing=preprocessing), threads=1)


# --- the model that ships ---


@pytest.fixture(scope="module")
def shipped() -> TokenClassifier:
    return Registry.load().open("ner")


def test_the_shipped_model_finds_what_a_note_says(shipped: TokenClassifier) -> None:
    text = (
        "The patient presented with fever, dyspnea and chest pain.\r\nComputed tomography showed a pulmonary embolism; "
        "she was treated with heparin and later warfarin 5 mg daily."
    )
    found = set(texts_of(text, shipped.find([text])[0]))
    assert {("symptom", "fever"), ("symptom", "dyspnea"), ("medication", "heparin"), ("medication", "warfarin")} <= found
    assert ("test", "Computed tomography") in found


def test_the_shipped_model_does_not_mind_its_neighbours(shipped: TokenClassifier) -> None:
    texts = ["Denies chest pain.", "Started on metoprolol 25 mg twice daily for atrial fibrillation.", "x", ""]
    assert shipped.find(texts) == [shipped.find([text])[0] for text in reversed(texts)][::-1]


def test_the_shipped_model_reads_past_its_window(shipped: TokenClassifier) -> None:
    filler = "He was reviewed by the team and remained comfortable overnight. "
    text = filler * 60 + "On day four he developed fever and was started on amoxicillin."
    found = texts_of(text, shipped.find([text])[0])
    assert ("symptom", "fever") in found
    assert ("medication", "amoxicillin") in found


def test_columns_of_the_hub_are_read_as_they_are(tmp_path: Path) -> None:
    labels = ["problem-I", "O", "problem-B", "[PAD]", "drug-B", "drug-I"]
    table = np.zeros((len(tiny.TOKENS), len(labels)), np.float32)
    table[:, 1] = 8.0
    for word, label in (("chest", "problem-B"), ("pain", "problem-I"), ("aspirin", "drug-B"), ("##7", "drug-B")):
        table[tiny.IDS[word], labels.index(label)] = 16.0
    folder = tiny.classifier_folder(tmp_path, table)
    said: dict[str, object] = {"columns": labels, "types": {"problem": "symptom"}}
    model = load(tiny.weights_of(folder, preprocessing=said), threads=1)
    assert [(s.label, s.start, s.end) for s in model.find(["mild chest pain, aspirin"])[0]] == [("symptom", 5, 15)]
    both = {"columns": labels, "aggregation": "max"}
    model = load(tiny.weights_of(folder, preprocessing=both), threads=1)
    assert [s.label for s in model.find(["a7"])[0]] == ["drug"]
    assert model.find(["a7"]) != load(tiny.weights_of(folder, preprocessing={"columns": labels}), threads=1).find(["a7"])
    for wrong, words in (
        ({"columns": labels[:-1]}, "gives 6 scores a token, its label map names 5"),
        ({"columns": []}, r"preprocessing\.columns is \[\]"),
        (both | {"heads": []}, "knows no such key"),
        ({"columns": [label for label in labels if label != "O"] + ["X"]}, "not exactly one O"),
    ):
        with pytest.raises(Fatal, match=words):
            load(tiny.weights_of(folder, preprocessing=wrong), threads=1)
