"""Baselines against their published tables, readers against tiny files in the sets' own layout, training end to end."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from models.errors import Permanent
from models.evaluation import deterioration as evaluation
from models.evaluation.baselines import Logistic, fit_logistic, last_values, news2, qsofa, summary
from models.evaluation.deterioration import evaluate, sparse
from models.evaluation.deterioration_card import against
from models.evaluation.measures import average_precision
from models.evaluation.report import signed
from models.evaluation.vital_sets import gather, part, read, unseen
from models.runtimes.deterioration import FEATURES, HOURS
from models.tasks import Floats, ModelIdentity
from processors.deterioration import deterioration_of
from streams.settings import ModelSettings


def window(**values: float) -> Floats:
    found = np.full((1, HOURS, len(FEATURES)), np.nan, np.float32)
    for name, value in values.items():
        found[0, -3, FEATURES.index(name)] = value
    return found


WELL = {
    "respiratory_rate": 16,
    "spo2": 98,
    "systolic": 120,
    "heart_rate": 70,
    "temperature": 37.0,
    "oxygen": 0,
    "consciousness": 0,
}

WORST = dict(zip(WELL, (26, 90, 85, 135, 34, 1, 1), strict=True))


@pytest.mark.parametrize(
    ("changed", "points"),
    [
        ({}, 0),
        ({"respiratory_rate": 8}, 3),
        ({"respiratory_rate": 9}, 1),
        ({"respiratory_rate": 12}, 0),
        ({"respiratory_rate": 20.4}, 0),
        ({"respiratory_rate": 20.5}, 2),
        ({"respiratory_rate": 25}, 3),
        ({"spo2": 91}, 3),
        ({"spo2": 93}, 2),
        ({"spo2": 95}, 1),
        ({"spo2": 96}, 0),
        ({"systolic": 90}, 3),
        ({"systolic": 100}, 2),
        ({"systolic": 110}, 1),
        ({"systolic": 219}, 0),
        ({"systolic": 220}, 3),
        ({"heart_rate": 40}, 3),
        ({"heart_rate": 50}, 1),
        ({"heart_rate": 90}, 0),
        ({"heart_rate": 91}, 1),
        ({"heart_rate": 111}, 2),
        ({"heart_rate": 131}, 3),
        ({"temperature": 35.0}, 3),
        ({"temperature": 36.0}, 1),
        ({"temperature": 38.06}, 1),
        ({"temperature": 39.1}, 2),
        ({"oxygen": 1}, 2),
        ({"consciousness": 1}, 3),
        (
            {
                "respiratory_rate": 26,
                "spo2": 90,
                "systolic": 85,
                "heart_rate": 135,
                "temperature": 34,
                "oxygen": 1,
                "consciousness": 1,
            },
            20,
        ),
    ],
)
def test_news2_by_its_published_table(changed: dict[str, float], points: int) -> None:
    assert news2(window(**WELL | changed)).tolist() == [points]


def test_missing_parameters_count_nothing() -> None:
    assert news2(window()).tolist() == [0]
    assert qsofa(window()).tolist() == [0]
    assert news2(window(heart_rate=140)).tolist() == [3]


def test_qsofa_by_its_published_rule() -> None:
    assert qsofa(window(respiratory_rate=22, systolic=100, consciousness=1)).tolist() == [3]
    assert qsofa(window(respiratory_rate=21, systolic=101, consciousness=0)).tolist() == [0]


def test_a_newer_value_counts_not_an_older_one() -> None:
    windows = window(heart_rate=140)
    windows[0, -1, FEATURES.index("heart_rate")] = 70
    assert news2(windows).tolist() == [0]


def test_summary_knows_last_mean_lowest_highest_and_age() -> None:
    windows = window(heart_rate=100)
    windows[0, -1, 0] = 80
    columns = summary(windows)[0]
    assert columns[[0, 7, 14, 21, 28]].tolist() == [80, 90, 80, 100, 0]
    assert columns[1 + 28] == HOURS  # never measured
    assert np.isnan(columns[1])


def test_the_logistic_baseline_finds_what_is_there(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    windows = np.full((3000, HOURS, len(FEATURES)), np.nan, np.float32)
    windows[:, -1, 0] = random.normal(80, 15, 3000)
    labels = (random.random(3000) < 1 / (1 + np.exp(-(windows[:, -1, 0] - 80) / 7))).astype(np.float32)
    logistic = fit_logistic(summary(windows), labels)
    best = average_precision(labels, windows[:, -1, 0])
    assert average_precision(labels, logistic(windows)) == pytest.approx(best, abs=0.005)
    logistic.save(tmp_path / "l.json")
    assert np.allclose(Logistic.load(tmp_path / "l.json")(windows), logistic(windows), atol=1e-4)


# ------------------------------------------------------------------------------------------- sets in their own layout

CINC = [
    "patient",
    "hour",
    "HR",
    "O2Sat",
    "Temp",
    "SBP",
    "MAP",
    "DBP",
    "Resp",
    "FiO2",
    "Lactate",
    "Age",
    "ICULOS",
    "SepsisLabel",
]


def write_cinc(folder: Path, patients: int = 80, seed: int = 0) -> None:
    """Patients who, if septic, get worse from hour 20 on; labels from hour 24."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    with gzip.open(folder / "hourly.csv.gz", "wt", newline="") as file:
        out = csv.writer(file)
        out.writerow(CINC)
        for number in range(patients):
            septic = number % 4 == 0
            for hour in range(34):
                worse = septic and hour >= 20
                row = [random.normal(*pair) for pair in ((115 if worse else 80, 6), (92 if worse else 97, 1), (37.2, 0.4))]
                row += [
                    random.normal(*pair) for pair in ((95 if worse else 125, 8), (80, 6), (65, 5), (26 if worse else 16, 2))
                ]
                values = ["" if random.random() < 0.2 else f"{value:.1f}" for value in row]
                out.writerow([f"p{number:05d}", hour, *values, "", "", 70, hour + 1, int(septic and hour >= 24)])


def write_physionet(folder: Path, letter: str = "a", patients: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    with gzip.open(folder / f"set-{letter}.csv.gz", "wt", newline="") as file:
        out = csv.writer(file)
        out.writerow(["RecordID", "minute", "Parameter", "Value"])
        for number in range(patients):
            out.writerow([number, 0, "Age", 60])
            for hour in range(48):
                out.writerow([number, 60 * hour + 7, "HR", random.normal(110 if number % 3 == 0 else 80, 5)])
                out.writerow([number, 60 * hour + 9, "GCS", 9 if number % 3 == 0 else 15])
    with (folder / f"Outcomes-{letter}.txt").open("w") as file:
        file.write("RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n")
        file.writelines(f"{number},1,1,5,-1,{int(number % 3 == 0)}\n" for number in range(patients))


def test_both_layouts_are_read(tmp_path: Path) -> None:
    write_cinc(tmp_path / "one", patients=8)
    write_physionet(tmp_path / "two", patients=6)
    hourly, outcome = read(tmp_path)
    assert (hourly.name, hourly.hourly, len(hourly.ids), len(hourly.labels)) == ("cinc2019", True, 8, 8 * 34)
    assert hourly.labels.sum() == 2 * 10
    assert (outcome.name, outcome.hourly, len(outcome.labels)) == ("physionet2012-a", False, 6 * 48)
    consciousness = outcome.values[:, FEATURES.index("consciousness")].reshape(6, 48)
    assert consciousness[:, 5].tolist() == [1, 0, 0, 1, 0, 0]
    assert outcome.scored_rows().tolist() == [47, 95, 143, 191, 239, 287]


def test_windows_end_at_the_hour_and_know_nothing_of_other_patients(tmp_path: Path) -> None:
    write_cinc(tmp_path, patients=3)
    (stays,) = read(tmp_path)
    first, last = stays.windows(np.array([34, 67]))
    assert np.isnan(first[:-1]).all()  # the second patient's first hour
    assert np.array_equal(first[-1], stays.values[34], equal_nan=True)
    assert np.array_equal(last, stays.values[44:68], equal_nan=True)


def test_impossible_values_and_oxygen_are_read_by_rule(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "hourly.csv.gz", "wt") as file:
        file.write(",".join(CINC) + "\n")
        for hour, fraction in enumerate(["0.21", "0.4", "40", "4000", "0.03", ""]):
            file.write(f"p1,{hour},350,98,37,120,80,60,16,{fraction},,70,{hour},0\n")
    (stays,) = read(tmp_path)
    assert np.isnan(stays.values[:, 0]).all()
    oxygen = stays.values[:, FEATURES.index("oxygen")]
    assert np.array_equal(oxygen, np.array([0, 1, 1, np.nan, np.nan, np.nan], np.float32), equal_nan=True)


def hourly(*rows: tuple[str, int | str, str]) -> str:
    """A table of patient, hour and heart rate, septic from hour 6 on."""
    lines = (f"{patient},{hour},{rate},97,,,,,,,,,,{int(str(hour) >= '6')}" for patient, hour, rate in rows)
    return "\n".join([",".join(CINC), *lines]) + "\n"


ROWS = [(patient, hour, str(80 + hour)) for patient in ("b", "a") for hour in (2, 3, 6, 7)]


@pytest.mark.parametrize(
    "rows", [ROWS, ROWS[::-1], sorted(ROWS, key=lambda row: row[1])], ids=["by patient", "backwards", "by time"]
)
def test_rows_are_placed_by_patient_and_hour_in_whatever_order_they_stand(
    tmp_path: Path, rows: list[tuple[str, int | str, str]]
) -> None:
    (tmp_path / "ward.csv").write_text(hourly(*rows))
    (stays,), notes = gather(tmp_path)
    assert (stays.ids, stays.starts.tolist()) == (("a", "b"), [0, 6, 12])
    one = [82, 83, np.nan, np.nan, 86, 87]
    assert np.array_equal(stays.values[:, 0], np.array(one * 2, np.float32), equal_nan=True)
    assert stays.scored_rows().tolist() == [0, 1, 4, 5, 6, 7, 10, 11]  # an hour without a row has no label
    assert stays.labels[stays.scored_rows()].tolist() == [0, 0, 1, 1] * 2
    assert notes == ["cinc2019: 4 of 12 hours have no row: nothing was measured in them, they are not judged"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", 0, "80"), ("b", 0, "80"), ("a", 0, "81")], r"ward\.csv:4: a second row for the same patient and hour"),
        ([("a", 0, "80"), ("a", "1.5", "81")], r"ward\.csv:3: a value is missing"),
        ([("a", 0, "80"), ("a", "", "81")], r"ward\.csv:3: a value is missing"),
        ([(" ", 0, "80")], r"ward\.csv:2: a value is missing"),
        ([("a", 0, "80"), ("a", 1_700_000, "81")], "a patient's hours span 1,700,001: one is mistyped"),
    ],
)
def test_an_hour_twice_none_or_mistyped_is_refused(tmp_path: Path, rows: list[tuple[str, int | str, str]], words: str) -> None:
    (tmp_path / "ward.csv").write_text(hourly(*rows))
    with pytest.raises(Permanent, match=words):
        read(tmp_path)


def test_values_in_another_unit_are_named(tmp_path: Path) -> None:
    text = ",".join(CINC) + "\n" + "".join(f"a,{hour},80,97,{98.6 + hour / 10},,,,,0.4,,,,0\n" for hour in range(5))
    (tmp_path / "ward.csv").write_text(text)
    assert gather(tmp_path)[1] == [
        "cinc2019: 5 of 5 values of temperature left out as impossible (possible: 25 to 44 Cel): another unit?"
    ]


def test_of_several_values_in_an_hour_the_latest_stands_wherever_its_line_does(tmp_path: Path) -> None:
    rows = ["1,50,HR,95", "1,10,HR,80", "1,20,GCS,15", "1,40,GCS,9", "1,30,GCS,15"]
    (tmp_path / "set-a.csv").write_text("RecordID,minute,Parameter,Value\n" + "\n".join(rows) + "\n")
    (tmp_path / "Outcomes-a.txt").write_text("RecordID,In-hospital_death\n1,0\n")
    (stays,) = read(tmp_path)
    assert stays.values[0, [FEATURES.index("heart_rate"), FEATURES.index("consciousness")]].tolist() == [95, 1]
    assert stays.context[0, 5] == 9  # GCS itself, for teachers


def test_alerts_count_in_hours_and_not_in_rows(tmp_path: Path) -> None:
    """Charted every four hours: the alert at hour 20 comes ten hours before the onset, which is six after the first label."""
    rows = [
        (f"p{number}", hour, "130" if number < 12 and hour >= 20 else "70") for number in range(24) for hour in range(0, 33, 4)
    ]
    lines = [f"{patient},{hour},{rate},97,,,,,,,,,,{int(rate == '130' and hour >= 24)}" for patient, hour, rate in rows]
    (tmp_path / "ward.csv").write_text(",".join(CINC) + "\n" + "\n".join(lines) + "\n")
    (stays,) = read(tmp_path)
    found = {metric.name: metric for metric in evaluate(Oracle(), stays, rounds=50).metrics}
    lead = found["lead time (h), at the sensitivity of NEWS2 >= 5"]
    assert lead.value == 10
    per_day = found["alerts per patient-day, at the sensitivity of NEWS2 >= 5"]
    assert per_day.value == pytest.approx(24 / (12 * 30 + 12 * 33) * 24)  # at hours 20 and 28 of the twelve


def test_a_folder_without_a_set_says_what_it_expected(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(Permanent) as raised:
            read(place)
        assert "hourly.csv.gz" in (raised.value.hint or "")


def test_a_split_is_by_patient_even_and_independent_of_the_other_splits() -> None:
    ids = [f"p{number:06d}" for number in range(20_000)]
    one, other = part(ids), part(ids, salt="other")
    assert part(ids[5:6])[0] == one[5]
    assert np.histogram(one, 10, (0, 1))[0] == pytest.approx([2000] * 10, rel=0.1)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert np.histogram(other[one < 0.25], 4, (0, 1))[0] == pytest.approx([1250] * 4, rel=0.1)


def test_patients_learned_from_are_known_again(tmp_path: Path) -> None:
    write_cinc(tmp_path, patients=10)
    (stays,) = read(tmp_path)
    known = stays.take(np.arange(10) < 4).checksums()
    assert unseen(stays, known).ids == stays.ids[4:]


class Oracle:
    """Scores by the heart rate alone."""

    identity = ModelIdentity("oracle", "0", "0")
    hours, features, horizon_hours = HOURS, FEATURES, 6

    def score(self, windows: Floats) -> Floats:
        last = np.nan_to_num(last_values(windows)[:, 0], nan=80.0)
        return np.asarray(1 / (1 + np.exp(-(last - 100) / 4)), np.float32)

    def attribute(self, windows: Floats) -> Floats:
        effects = np.zeros((len(windows), len(FEATURES)), np.float32)
        without = windows.copy()
        without[:, :, 0] = np.nan
        effects[:, 0] = self.score(windows) - self.score(without)
        return effects


def test_an_evaluation_has_every_figure_with_its_interval(tmp_path: Path) -> None:
    write_cinc(tmp_path)
    (stays,) = read(tmp_path)
    figures = evaluate(Oracle(), stays, rounds=100)
    found = {metric.name: metric for metric in figures.metrics}
    assert found["AUROC"].value > 0.9
    assert found["AUROC"].low <= found["AUROC"].value <= found["AUROC"].high
    assert set(found["AUROC"].baselines) == {"NEWS2", "qSOFA"}
    for name, metric in found.items():  # each with the paired difference, and its interval
        for other in metric.baselines.values():
            gain = other.baselines["difference"]
            assert gain.value == pytest.approx(metric.value - other.value), name
            assert gain.low <= gain.value <= gain.high, name
    caught = found["onsets caught, at the sensitivity of NEWS2 >= 5"]
    assert caught.value >= caught.baselines["NEWS2"].value
    lead = found["lead time (h), at the sensitivity of NEWS2 >= 5"]
    assert 6 <= lead.value <= 24  # worse from hour 20, onset 6 hours after the first label at 24
    json.dumps(figures.as_json(), allow_nan=True)


def test_the_card_says_where_the_model_is_not_better(tmp_path: Path) -> None:
    write_cinc(tmp_path)
    (stays,) = read(tmp_path)
    good = evaluate(Oracle(), stays, rounds=50)

    class Guess(Oracle):
        def score(self, windows: Floats) -> Floats:
            return np.full(len(windows), 0.3, np.float32)

    bad = evaluate(Guess(), stays, rounds=50)
    found = {metric.name: metric for metric in bad.metrics}
    gain = found["AUROC"].baselines["NEWS2"].baselines["difference"]
    words = against([bad])
    assert gain.high < 0
    assert f"AUROC against NEWS2 on cinc2019, {signed(gain)}" in words
    assert "Intervals apart from every baseline's: nowhere." in words
    assert "not shown to be better than the base rate on cinc2019" in words
    for metric in good.metrics[:2]:
        for kind, other in metric.baselines.items():
            clear = other.baselines["difference"].low > 0
            assert (f"{metric.name} against {kind} on cinc2019" in against([good])) == (not clear)


def test_deletion_tells_a_true_explanation_from_a_false_one(tmp_path: Path) -> None:
    class Liar(Oracle):
        def attribute(self, windows: Floats) -> Floats:
            return -super().attribute(windows)

    write_cinc(tmp_path)
    (stays,) = read(tmp_path)
    rows = np.flatnonzero(stays.labels)
    windows, groups = stays.windows(rows), stays.stay_of[rows]
    true, false = (evaluation.faithfulness(model, windows, groups, remove=1) for model in (Oracle(), Liar()))
    assert true.low > true.baselines["at random"].high
    assert false.high < false.baselines["at random"].low


def test_deletion_is_of_the_drivers_that_are_published() -> None:
    random = np.random.default_rng(5)
    effects = (random.normal(size=(200, len(FEATURES))) * 0.0003).astype(np.float32)
    effects[0], effects[1, 1:] = 0, 0
    identity = ModelIdentity("m", "1", "0" * 64)
    for mask, row in zip(evaluation.published(effects), effects, strict=True):
        named = {one.name for one in deterioration_of(0.5, row.tolist(), identity, 6).drivers}
        assert named == {name for name, chosen in zip(FEATURES, mask, strict=True) if chosen}
    assert ModelSettings().drivers_from == evaluation.DRIVERS_FROM


def test_a_ward_charts_every_fourth_hour(tmp_path: Path) -> None:
    write_cinc(tmp_path, patients=4)
    (stays,) = read(tmp_path)
    charted = sparse(stays)
    known = ~np.isnan(charted.values).all(axis=1).reshape(4, 34)
    assert not known[:, [1, 2, 3, 5]].any()
    assert known[:, 0].all()
    assert np.array_equal(charted.labels, stays.labels)


@pytest.mark.torch
@pytest.mark.slow
def test_training_end_to_end_gives_a_model_that_loads_and_ranks(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from models.registering import record, seal
    from models.registry import ModelEntry, Registry
    from models.training.deterioration import Recipe, train

    write_cinc(tmp_path / "data" / "one", patients=120)
    write_physionet(tmp_path / "data" / "two")
    recipe = Recipe(hidden=8, steps=60, batch=128, second_batch=16, average=0.9)
    report = train(tmp_path / "data", tmp_path / "weights", seed=1, recipe=recipe)
    assert min(report.folds) > 0.8
    assert report.calibration[0] > 0
    site = tmp_path / "registry.toml"
    files = {"model.onnx": "", "scaling.json": ""}
    record(
        ModelEntry(
            task="deterioration",
            name="own",
            version="1",
            runtime="onnx-deterioration",
            location="weights",
            files=files,
            licence="x",
        ),
        site,
    )
    seal(site)
    model = Registry.load(site).open("deterioration", name="own")
    figures = evaluation.evaluate_all(model, tmp_path / "data", tmp_path / "weights", rounds=20)
    assert figures[0].metrics[0].value > 0.8
    assert figures[0].patients < 60  # the others were learned from
    again = train(tmp_path / "data", tmp_path / "again", seed=1, recipe=recipe)
    assert again.calibration == report.calibration
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (tmp_path / "weights" / "model.onnx").read_bytes()
