"""A TOML file changed only where its document changed."""

import copy
import tomllib
from typing import Any

import pytest

from models.toml_text import rewritten

SITE = """\
# Ward 7's models. Ask Ann before a change.

# since May
[tasks.ner]   # notes
champion = "old"  # not "older" # really
# the way back
previous = "older"

[[model]] # ours
task = "ner"
name = "old"
labels = [
  "condition",  # what matters
  "symptom",
]
[model.files]
"model.onnx" = "aa"  # of 3 May
'tokenizer.json' = "bb"

# Ward 7 wants to find more.
[thresholds.clinical-ner]
condition = 0.5 # Ann
   symptom=0.25

# on trial
[[model]]
task = "ner"
name = "new"
preprocessing = { window = 256 }

[[model.heads]]
tags = ["O"]

[[model.heads]]
tags = ["B"]
# the end
"""


def test_a_document_that_did_not_change_leaves_every_byte() -> None:
    for text in (SITE, SITE.replace("\n", "\r\n"), SITE.rstrip("\n"), "", "# a head alone\n", "\n\n"):
        assert rewritten(text, tomllib.loads(text)) == text


def test_what_changes_changes_in_its_line_and_what_is_new_comes_after_its_like() -> None:
    document = tomllib.loads(SITE)
    document["tasks"]["ner"] |= {"champion": "new", "challenger": "old"}
    document["tasks"]["image-text"] = {"champion": "x ray"}
    document["model"][0] |= {"version": "2", "quality": {"f1": 0.5}}
    document["model"][0]["files"]["tokenizer.json"] = "cc"
    del document["model"][0]["labels"]
    document["model"][1]["preprocessing"]["window"] = 128
    document["model"].append({"task": "ner", "name": "third", "files": {"m": ""}})
    expected = (
        SITE.replace('champion = "old"  # not', 'champion = "new"  # not')
        .replace('previous = "older"\n', 'previous = "older"\nchallenger = "old"\n\n[tasks.image-text]\nchampion = "x ray"\n')
        .replace('name = "old"\nlabels = [\n  "condition",  # what matters\n  "symptom",\n]\n', 'name = "old"\nversion = "2"\n')
        .replace("'tokenizer.json' = \"bb\"\n", "'tokenizer.json' = \"cc\"\n\n[model.quality]\nf1 = 0.5\n")
        .replace("window = 256", "window = 128")
        .replace('tags = ["B"]\n', 'tags = ["B"]\n\n[[model]]\ntask = "ner"\nname = "third"\n\n[model.files]\nm = ""\n')
    )
    assert rewritten(SITE, document) == expected


def test_lines_keep_the_ends_that_the_file_has() -> None:
    text = SITE.replace("\n", "\r\n")
    document = tomllib.loads(text)
    document["thresholds"]["clinical-ner"]["condition"] = 0.75
    assert rewritten(text, document) == text.replace("condition = 0.5 # Ann", "condition = 0.75  # Ann")


@pytest.mark.parametrize(
    "text", ['tasks = { ner = { champion = "old" } }\n', '[tasks]\nner = { champion = "old" }', '[tasks.ner]\nchampion = "old"']
)
def test_however_a_task_is_written_it_is_found(text: str) -> None:
    document = {"tasks": {"ner": {"champion": "new", "previous": ["old"]}}}
    assert tomllib.loads(rewritten(text, document)) == document


def test_what_cannot_be_changed_alone_is_refused() -> None:
    text = '[tasks]\nner.champion = "old"\n'
    document: dict[str, Any] = copy.deepcopy(tomllib.loads(text))
    document["tasks"]["ner"]["previous"] = ["older"]
    with pytest.raises(ValueError, match="no edit"):
        rewritten(text, document)
