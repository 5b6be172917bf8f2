"""`vigil doctor` on the table of terms: a site's own that cannot be read, or never speaks, is told before notes come."""

from pathlib import Path

import pytest

from models.registry import Registry
from models.tasks import TokenClassifier
from streams.checks import _terms
from streams.settings import EntitiesSettings, LanesSettings, Settings


@pytest.fixture(scope="module")
def model() -> TokenClassifier:
    return Registry.load(None).open("ner", expect=TokenClassifier)


def lane(**values: object) -> Settings:
    return Settings().model_copy(update={"lanes": LanesSettings(notes_entities=EntitiesSettings.model_validate(values))})


async def test_what_is_laid_over_the_model_is_told(model: TokenClassifier, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("[condition]\nbadger lung\n", encoding="utf-8")
    [packaged], [site], [off] = [
        await _terms(settings, model) for settings in (lane(), lane(own_terms=[own]), lane(vocabulary=False))
    ]
    assert [one.verdict for one in (packaged, site, off)] == ["ok", "ok", "ok"]
    assert "with 1 file of the site's own" in site.found and "the model's alone" in off.found
    assert packaged.found.rpartition(" ")[2] != site.found.rpartition(" ")[2]  # the digest


async def test_terms_that_never_speak_and_a_table_that_is_none_are_told(model: TokenClassifier, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("[problem]\nbadger lung\n", encoding="utf-8")
    [dumb] = await _terms(lane(own_terms=[own]), model)
    assert dumb.verdict == "warning" and "under problem are never found" in dumb.found and "condition" in dumb.mend
    assert "types" not in dumb.mend, "its own labels are the table's"
    spoilt = tmp_path / "spoilt.txt"
    spoilt.write_text("badger lung\n", encoding="utf-8")
    [broken] = await _terms(lane(own_terms=[spoilt]), model)
    assert broken.verdict == "wrong" and "spoilt.txt:1" in broken.found
