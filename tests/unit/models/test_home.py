"""Home monitoring: what is asked of a diary, what is refused in words, the generator, the scorer, and training end to end."""

import csv
import gzip
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.errors import Fatal, Permanent, Poison
from models.evaluation.home import evaluate_all, last_severity, mean_severity, rise
from models.evaluation.home_card import WARNING, is_synthetic
from models.evaluation.home_card import write as write_card
from models.evaluation.home_sets import COLUMNS, checksums, from_rows, is_diary, read_csv, read_sql, require_enough
from models.evaluation.report import Evaluation
from models.registry import Registry
from models.runtimes.home import DAYS, FEATURES
from models.tasks import Floats, HomeModel
from models.training.home_synthetic import Cohort, diaries, rows, write_csv
from processors.home import scores
from streams.cli import home as cli


def row(patient: str, day: object, *, severity: object = 3, deteriorated: object = 0, **values: object) -> dict[str, Any]:
    signs = dict.fromkeys(FEATURES, "") | {"symptom_severity": severity} | values
    return {"patient": patient, "day": day, **signs, "deteriorated": deteriorated}


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


# -- what is asked ---------------------------------------------------------------------------------------------------


def test_a_day_is_positive_when_one_of_the_next_three_is_a_deteriorated_one() -> None:
    known = from_rows("x", [row("a", day, deteriorated=int(day in (5, 6))) for day in range(12)])
    assert known.stays.labels.tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    # not judged: the deteriorated days, and the last three, whose answer nobody knows
    assert known.rows().tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert known.onsets().tolist() == [5]


def test_a_deterioration_counts_as_an_answer_where_the_diary_ends_with_it() -> None:
    known = from_rows("x", [row("a", day, deteriorated=int(day == 4)) for day in range(5)])
    assert known.rows().tolist() == [0, 1, 2, 3]
    assert known.stays.labels[:4].tolist() == [0, 1, 1, 1]


def test_the_next_patients_days_are_no_answer_for_this_one() -> None:
    known = from_rows("x", [row("a", day) for day in range(5)] + [row("b", day, deteriorated=1) for day in range(5)])
    assert known.stays.labels[:5].tolist() == [0] * 5
    assert known.rows().tolist() == [0, 1]
    assert known.onsets().tolist() == [5]
    windows = known.windows(np.array([6]))
    assert np.isnan(windows[0, :5]).all()  # nothing of patient a


def test_absent_days_are_days_without_values() -> None:
    known = from_rows("x", [row("a", "2026-03-01"), row("a", "2026-03-04", respiratory_rate=18)])
    assert np.isnan(known.stays.values[[1, 2]]).all()
    assert known.stays.values[3].tolist()[2:] == [18, 3]
    assert known.day(3) == "2026-03-04"


def test_a_window_without_any_value_is_not_judged() -> None:
    known = from_rows("x", [row("a", 0), *(row("a", day, severity="") for day in range(1, 15))])
    assert known.rows().tolist() == list(range(7))


def test_a_value_out_of_range_counts_as_not_reported_and_is_counted() -> None:
    known = from_rows("x", [row("a", 1, severity=11, respiratory_rate=0), row("a", 2, self_reported_pain=10)])
    assert known.implausible == 2
    assert np.isnan(known.stays.values[0]).all()
    assert known.stays.values[1, 1] == 10


def test_the_order_of_rows_changes_nothing() -> None:
    found = list(rows(Cohort(4, 20, 3)))
    mine, other = from_rows("x", found), from_rows("x", found[::-1])
    assert mine.stays.ids == other.stays.ids
    np.testing.assert_array_equal(mine.stays.values, other.stays.values)
    np.testing.assert_array_equal(mine.rows(), other.rows())


# -- what is refused -------------------------------------------------------------------------------------------------


def test_too_few_patients_says_how_many_there_are_and_what_is_lacking() -> None:
    long = [row(f"long-{n}", day) for n in range(30) for day in range(14)]
    short = [row(f"short-{n}", day) for n in range(15) for day in range(13)]
    with pytest.raises(Permanent) as raised:
        require_enough(from_rows("x", long + short))
    words = str(raised.value)
    assert "30 patients with at least 14 days" in words
    assert "45 patients in all, 15 with fewer days" in words
    assert "50 are needed, 20 more" in words


def test_days_without_a_report_do_not_count_as_days() -> None:
    empty = [row(f"p{n}", day, severity="" if day % 2 else 3) for n in range(60) for day in range(26)]
    with pytest.raises(Permanent, match="0 patients with at least 14 days"):
        require_enough(from_rows("x", empty))


def test_too_few_deteriorations_say_so() -> None:
    quiet = [row(f"p{n}", day, deteriorated=int(n < 4 and day == 9)) for n in range(50) for day in range(14)]
    with pytest.raises(Permanent, match=r"4 of 50 patients deteriorated; 10 are needed, 6 more"):
        require_enough(from_rows("x", quiet))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"day": "yesterday"}, "row 3: day is neither"),
        ({"symptom_severity": "bad"}, "row 3: symptom_severity is no number"),
        ({"day": 1}, "row 3: a second row"),
        ({"day": "2026-01-01"}, "row 3: dates and day numbers are mixed"),
        ({"day": 99999}, "a date is mistyped"),
    ],
)
def test_a_row_that_cannot_be_is_named_without_its_patient(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "x.csv", [row("secret-7", 1), row("secret-7", 2) | changed])
    with pytest.raises(Permanent, match=words) as raised:
        read_csv(path)
    assert "secret" not in f"{raised.value} {raised.value.hint}"


def test_a_missing_column_is_named_and_the_label_is_asked_for_in_training_alone(tmp_path: Path) -> None:
    bare = [{key: value for key, value in row("a", day).items() if key != "deteriorated"} for day in range(9)]
    path = write(tmp_path / "x.csv", bare)
    with pytest.raises(Permanent, match="columns are missing: deteriorated"):
        read_csv(path)
    assert len(read_csv(path, labelled=False).stays.values) == 9


@pytest.mark.parametrize(
    ("separator", "encoding"), [(",", "utf-8-sig"), (";", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-8")], ids=repr
)
def test_a_table_as_excel_writes_it(tmp_path: Path, separator: str, encoding: str) -> None:
    point = "," if separator == ";" else "."
    lines = [separator.join(COLUMNS), *(separator.join(["a", str(d), f"1{point}5", "2", "", "3", "0"]) for d in range(9))]
    path = tmp_path / "x.csv"
    path.write_text("\r\n".join(lines), encoding=encoding)
    known = read_csv(path)
    assert known.stays.ids == ("a",)
    assert known.stays.values[0, [0, 1, 3]].tolist() == [1.5, 2.0, 3.0]
    assert is_diary(path)


def test_a_damaged_table_is_named_in_words(tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv.gz"
    with gzip.open(whole, "wt") as file:
        file.write("\n".join([",".join(COLUMNS), *(f"p{n},1,,,,3,0" for n in range(5000))]))
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(whole.read_bytes()[:-2000])
    latin = tmp_path / "latin.csv"
    latin.write_bytes(",".join(COLUMNS).encode() + b"\nM\xfcller,1,,,,3,0\n")
    for path, words in ((cut, "cut short"), (latin, "not UTF-8"), (tmp_path, "no such file")):
        with pytest.raises(Permanent, match=words) as raised:
            read_csv(path)
        assert "ller" not in f"{raised.value}"


# -- databases -------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("sqlalchemy")
    path = tmp_path / "diaries.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE diaries (patient TEXT, day TEXT, facial_pain REAL, self_reported_pain INTEGER, "
            "respiratory_rate INTEGER, symptom_severity INTEGER, deteriorated INTEGER)"
        )
        for one in rows(Cohort(patients=5, days=20, seed=3)):
            connection.execute(
                "INSERT INTO diaries VALUES (?,?,?,?,?,?,?)", [one[c] if one[c] != "" else None for c in COLUMNS]
            )
    connection.close()
    yield f"sqlite:///{path}"


@pytest.mark.parametrize("query", ["diaries", "SELECT * FROM diaries WHERE day > '2000-01-01'"])
def test_a_database_gives_what_the_csv_gives(database: str, query: str, tmp_path: Path) -> None:
    write_csv(Cohort(patients=5, days=20, seed=3), tmp_path / "same.csv")
    mine, other = read_sql(database, query), read_csv(tmp_path / "same.csv")
    assert mine.stays.ids == other.stays.ids
    np.testing.assert_array_equal(mine.stays.values, other.stays.values)
    np.testing.assert_array_equal(mine.rows(), other.rows())
    np.testing.assert_array_equal(checksums(mine), checksums(other))


def test_a_database_that_refuses_says_so_without_its_url(database: str) -> None:
    with pytest.raises(Permanent, match="refused the query") as raised:
        read_sql(database, "absent")
    assert "sqlite:" not in str(raised.value)
    with pytest.raises(Permanent, match="URL cannot be used"):
        read_sql("nonsense", "diaries")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("absent", "it has no table 'absent'"),
        ("SELECT * FROM absent", "a table that is not there"),
        ("SELECT secret FROM diaries", "a column that is not there"),
        ("SELECT * FORM diaries", "no valid SQL"),
        ("DELETE FROM diaries", "the query is no SELECT: DELETE"),
        ("-- all of it\n/* SELECT */ delete from diaries", "the query is no SELECT: DELETE"),
        ("secret words", "the query is no SELECT$"),
        ("SELECT 1 AS patient", "columns are missing: day"),
    ],
)
def test_a_refused_query_says_why_and_nothing_of_it(database: str, query: str, words: str) -> None:
    with pytest.raises(Permanent, match=words) as raised:
        read_sql(database, query)
    assert "secret" not in f"{raised.value} {raised.value.hint}"
    assert read_sql(database, "diaries").stays.ids  # and nothing was deleted


def test_a_database_that_is_not_there_is_neither_made_nor_called_a_query(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    with pytest.raises(Permanent, match="no such database file"):
        read_sql(f"sqlite:///{tmp_path}/absent.db", "diaries")
    assert not (tmp_path / "absent.db").exists()
    (tmp_path / "text.db").write_text("no database, " * 100)
    with pytest.raises(Permanent, match="no database"):
        read_sql(f"sqlite:///{tmp_path}/text.db", "SELECT * FROM diaries")


def test_a_server_that_does_not_answer_is_told_from_a_refused_query() -> None:
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg")
    with pytest.raises(Permanent, match="cannot be reached") as raised:
        read_sql("postgresql+psycopg://user:hidden@127.0.0.1:9/none", "diaries")
    assert "hidden" not in f"{raised.value} {raised.value.hint}"


# -- the generator ---------------------------------------------------------------------------------------------------


def test_the_generator_is_seeded_and_a_patient_stays_in_a_larger_cohort(tmp_path: Path) -> None:
    small, large = list(rows(Cohort(3, 30, 5))), list(rows(Cohort(6, 30, 5)))
    assert large[: len(small)] == small
    assert list(rows(Cohort(3, 30, 6))) != small


def test_what_it_generates_is_what_its_words_say() -> None:
    known = diaries(Cohort(200, 90, 1))
    assert known.implausible == 0
    missing = np.isnan(known.stays.values).mean(axis=0)
    assert (missing > 0.12).all()
    assert missing[2] == missing.max()  # respiratory rate
    rate = known.stays.labels[known.rows()].mean()
    assert 0.01 < rate < 0.08
    # a patient is worse on the day before an onset than usually, and not always
    before = known.onsets() - 1
    severity = known.stays.values[:, FEATURES.index("symptom_severity")]
    assert np.nanmean(severity[before[before >= 0]]) > np.nanmean(severity) + 0.5
    assert np.nanmin(severity[before[before >= 0]]) <= 3


def test_what_was_generated_is_known_again_in_a_table(tmp_path: Path) -> None:
    write_csv(Cohort(3, 30, 5), tmp_path / "x.csv")
    assert read_csv(tmp_path / "x.csv").synthetic
    assert diaries(Cohort(3, 30, 5)).synthetic
    renamed = (tmp_path / "x.csv").read_text().replace("synthetic-", "ward-")
    (tmp_path / "y.csv").write_text(renamed)
    assert read_csv(tmp_path / "y.csv").synthetic
    assert not from_rows("x", [row("synthetic-arm-1", 1)]).synthetic  # an id says nothing of how a diary was made


# -- the model that ships --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> HomeModel:
    return Registry.load().open("deterioration-home")


def course(*severities: float) -> Floats:
    window = np.full((1, DAYS, len(FEATURES)), np.nan, np.float32)
    window[0, DAYS - len(severities) :, FEATURES.index("symptom_severity")] = severities
    return window


def test_a_rise_scores_above_a_steady_course(model: HomeModel) -> None:
    steady, rising = course(2, 2, 2, 2, 2, 2, 2), course(2, 2, 2, 3, 5, 6, 8)
    assert model.score(rising)[0] > 2 * model.score(steady)[0]


def test_baselines_are_what_their_words_say() -> None:
    windows = np.concatenate(
        [course(1, 1, 1, 1, 2, 4, 6), course(9, float("nan"), float("nan"), float("nan")), course(float("nan"))]
    )
    assert last_severity(windows).tolist() == [6, 9, 0]
    assert mean_severity(windows).tolist() == [4, 9, 0]
    assert rise(windows).tolist() == [3, 0, 0]


def test_attributions_are_what_the_score_loses(model: HomeModel) -> None:
    window = course(2, 2, 2, 3, 5, 6, 8)
    signs, days = model.attribute(window)[0], model.attribute_days(window)[0]
    assert np.count_nonzero(signs) == 1
    assert signs.argmax() == FEATURES.index("symptom_severity")
    without = window.copy()
    without[0, 6, 3] = np.nan
    assert days[6, 3] == model.score(window)[0] - model.score(without)[0]
    assert days[6, 3] > 0
    assert not days[:, :3].any()


def test_it_refuses_an_inpatient_window_and_cannot_serve_as_an_inpatient_model(model: HomeModel, tmp_path: Path) -> None:
    with pytest.raises(Poison, match="expected"):
        model.score(np.zeros((1, 24, 9), np.float32))
    registry = Registry.load()
    entry = registry.entry("deterioration-home")
    away = entry.model_copy(update={"task": "deterioration", "location": str(registry.folder(entry))})
    with pytest.raises(Fatal, match="does not fill in the task"):
        Registry([(away, registry.folder(entry))], {}).open("deterioration", name=away.name)


def test_it_says_that_it_is_not_for_patients() -> None:
    registry = Registry.load()
    entry = registry.entry("deterioration-home")
    assert is_synthetic(entry)
    card = (registry.folder(entry) / "card.md").read_text()
    assert WARNING in card
    assert entry.digest in card
    size = sum(path.stat().st_size for path in registry.folder(entry).iterdir())
    assert size < 1_000_000


# -- scoring ---------------------------------------------------------------------------------------------------------


def test_a_score_names_day_and_drivers(model: HomeModel) -> None:
    known = from_rows(
        "x", [row("a", f"2026-03-0{day}", severity=day, respiratory_rate=16) for day in range(1, 8)] + [row("b", "2026-03-01")]
    )
    first, second = scores(model, known)
    assert (first.patient, first.day, first.horizon_days) == ("a", "2026-03-07", 3)
    assert first.drivers[0].name == "symptom_severity"
    assert first.drivers[0].days[-1][:2] == (0, 7.0)
    assert second.day == "2026-03-01"
    assert len(list(scores(model, known, every_day=True))) == 8


def test_the_command_scores_a_table_and_warns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [row("a", day, severity=day) for day in range(1, 8)])
    shown = CliRunner().invoke(cli.app, ["score", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "not to be used for patients" in shown.output
    assert "symptom_severity" in shown.output


def test_who_reported_nothing_is_listed_without_a_score(tmp_path: Path) -> None:
    found = [row("a", day) for day in range(1, 8)] + [row("b", 1)] + [row("b", day, severity="") for day in range(2, 10)]
    shown = CliRunner().invoke(cli.app, ["score", str(write(tmp_path / "x.csv", found))])
    assert shown.exit_code == 0, shown.output
    assert "nothing reported in the 7 days up to it" in shown.output
    told = CliRunner().invoke(cli.app, ["score", "--json", str(tmp_path / "x.csv")]).output.splitlines()
    by = {one["patient"]: one["probability"] for line in told if line.startswith("{") for one in [json.loads(line)]}
    assert by["b"] is None
    assert by["a"] is not None


def test_values_out_of_range_are_told_of_whom_and_another_scale_is_refused(tmp_path: Path) -> None:
    found = [row(who, day, severity=85 if (who, day) == ("b", 3) else 4) for who in "ab" for day in range(1, 8)]
    shown = CliRunner().invoke(cli.app, ["score", str(write(tmp_path / "x.csv", found))])
    assert "b: 1 values out of range, counted as not reported" in shown.output
    assert "a: " not in shown.output
    path = write(tmp_path / "y.csv", [row("a", day, severity=10 * (day % 4)) for day in range(1, 9)])
    assert read_csv(path).left_out == (4,)
    path = write(tmp_path / "z.csv", [row("a", day, severity=10 * (1 + day % 4)) for day in range(1, 9)])
    with pytest.raises(Permanent, match="6 of 8 values of symptom_severity are out of range"):
        read_csv(path)


def test_a_card_says_how_the_model_was_made_and_whether_it_ships() -> None:
    registry = Registry.load()
    entry = registry.entry("deterioration-home")
    shipped = (registry.folder(entry) / "card.md").read_text()
    nothing = Evaluation("deterioration-home", entry.identity, ())
    assert write_card(entry, nothing, ships=True).split("\n\n")[:3] == shipped.split("\n\n")[:3]
    made = write_card(entry, nothing)
    assert WARNING in made
    assert "It ships" not in made
    own = entry.model_copy(update={"preprocessing": {}, "trained_on": ("synthetic-arm of a trial",)})
    assert not is_synthetic(own)
    assert is_synthetic(own.model_copy(update={"trained_on": ("synthetic diaries: 60 of 60 patients, read from a table",)}))
    assert "a site's own diaries" in write_card(own, nothing)


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_training_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from models.training import home as training

    known = diaries(Cohort(80, 60, 2))
    quick = training.Recipe(hidden=8, steps=60, batch=128, learning_rate=1e-2)
    report = training.train(known, tmp_path / "home", seed=1, recipe=quick)
    assert len(report.folds) == 3
    again = training.train(known, tmp_path / "again", seed=1, recipe=replace(quick))
    assert (tmp_path / "home/model.onnx").read_bytes() == (tmp_path / "again/model.onnx").read_bytes()
    assert again == report


@pytest.mark.torch
def test_what_is_shipped_is_measured_on_others_and_evaluated_again_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from models.training import home as training

    quick = training.Recipe(hidden=8, steps=60, batch=128, learning_rate=1e-2)
    monkeypatch.setattr(training, "Recipe", lambda: quick)  # a training of seconds: the shipped recipe takes half a minute
    cohort = Cohort(80, 60, 2)
    site = tmp_path / "registry.toml"
    entry, found = training.ship(
        diaries(cohort),
        origin="a site's own diaries, from CSV",
        licence="site",
        registry=site,
        out=tmp_path / "home",
        rounds=20,
    )
    assert found.sections
    assert f"{entry.quality['synthetic: AUROC']}" == f"{round(found.sections[0].metrics[0].value, 4)}"
    assert "not to be used" not in (tmp_path / "home/card.md").read_text()
    write_csv(cohort, tmp_path / "synthetic.csv")
    registry = Registry.load(site)
    again = evaluate_all(registry.open("deterioration-home"), tmp_path, tmp_path / "home", rounds=20)
    assert again.quality() == found.quality()
    assert any("left out, the model learned from them" in note for note in again.notes)
    assert not any(one in (tmp_path / "home/learned.npy").read_bytes() for one in (b"synthetic",))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("table", "options", "synthetic"),
    [("marked", [], True), ("plain", [], False), ("plain", ["--synthetic"], True), (None, ["--patients", "60"], True)],
)
def test_how_a_model_was_made_is_taken_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str | None, options: list[str], synthetic: bool
) -> None:
    pytest.importorskip("torch")
    from models.training import home as training
    from streams.cli import train

    write_csv(Cohort(60, 20, 2), tmp_path / "marked.csv")
    with (tmp_path / "marked.csv").open(newline="") as file:
        plain = list(csv.DictReader(file))
    write(tmp_path / "plain.csv", [{name: one[name] for name in COLUMNS} for one in plain])  # ids as the generator's
    asked: dict[str, Any] = {}

    def ship(known: object, **given: Any) -> None:
        asked.update(given)
        raise Permanent("seen enough")

    monkeypatch.setattr(training, "ship", ship)
    data = ["--data", str(tmp_path / f"{table}.csv")] if table else []
    command = ["deterioration", "--home", "--out", str(tmp_path / "o"), "--registry", str(tmp_path / "r.toml"), *data, *options]
    CliRunner().invoke(train.app, command)
    assert asked["synthetic"] is synthetic
    assert asked["origin"].startswith("synthetic diaries") is synthetic
