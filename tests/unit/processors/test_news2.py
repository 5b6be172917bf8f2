"""NEWS2 against an oracle written another way: the chart as text, read at test time, points found by walking the cells."""

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import news2
from processors.events import News2
from processors.news2 import Scale, one_band
from processors.vitals import LIMITS

NOW = datetime(2026, 11, 23, tzinfo=UTC)

# The printed chart, cells as printed: RCP 2017, chart 1. The heads are the points of the columns.
CHART = """
points           | 3     | 2      | 1         | 0           | 1         | 2         | 3
respiratory_rate | <=8   |        | 9-11      | 12-20       |           | 21-24     | >=25
spo2 scale 1     | <=91  | 92-93  | 94-95     | >=96        |           |           |
spo2 scale 2 air | <=83  | 84-85  | 86-87     | 88-92 >=93  |           |           |
spo2 scale 2 O2  | <=83  | 84-85  | 86-87     | 88-92       | 93-94     | 95-96     | >=97
systolic         | <=90  | 91-100 | 101-110   | 111-219     |           |           | >=220
heart_rate       | <=40  |        | 41-50     | 51-90       | 91-110    | 111-130   | >=131
temperature      | <=35.0|        | 35.1-36.0 | 36.1-38.0   | 38.1-39.0 | >=39.1    |
"""


def rows() -> dict[str, list[tuple[Decimal, Decimal, int]]]:
    head, *lines = [[cell.strip() for cell in line.split("|")] for line in CHART.strip().splitlines()]
    made: dict[str, list[tuple[Decimal, Decimal, int]]] = {}
    for name, *cells in lines:
        bands = []
        for points, cell in zip(head[1:], cells, strict=True):
            for part in cell.split():
                if part.startswith("<="):
                    low, high = Decimal("-Infinity"), Decimal(part[2:])
                elif part.startswith(">="):
                    low, high = Decimal(part[2:]), Decimal("Infinity")
                else:
                    low, high = map(Decimal, part.split("-"))
                bands.append((low, high, int(points)))
        made[name] = bands
    return made


ROWS = rows()


def oracle(row: str, value: Decimal) -> int:
    """Points of a value, which is rounded here by schoolbook rule on exact decimals."""
    step = Decimal("0.1") if row == "temperature" else Decimal(1)
    doubled = (value / step * 2 + 1) / 2
    rounded = doubled.to_integral_value(rounding="ROUND_FLOOR") * step
    found = [points for low, high, points in ROWS[row] if low <= rounded <= high]
    assert len(found) == 1, f"{row} {value}: {found}"
    return found[0]


def ours(row: str, value: Decimal) -> int:
    name = row.split()[0]
    scale = 2 if "scale 2" in row else 1
    oxygen = {"air": False, "O2": True}.get(row.split()[-1])
    return news2.points(name, float(value), scale, oxygen)[1]


RANGES = {
    "respiratory_rate": (0, 60),
    "spo2": (50, 100),
    "systolic": (40, 260),
    "heart_rate": (20, 200),
    "temperature": (30, 43),
}


@pytest.mark.parametrize("row", list(ROWS))
def test_every_tenth_and_every_half_way_of_the_chart(row: str) -> None:
    low, high = RANGES[row.split()[0]]
    hundredths = [Decimal(n) / 100 for n in range(low * 100, high * 100 + 1)]
    wrong = [value for value in hundredths if ours(row, value) != oracle(row, value)]
    assert wrong == []


@given(st.sampled_from(list(ROWS)), st.decimals(0, 300, places=4))
def test_any_decimal(row: str, value: Decimal) -> None:
    assert ours(row, value) == oracle(row, value)


@pytest.mark.parametrize(
    ("name", "value", "rounded"),
    [("temperature", 38.05, 38.1), ("temperature", 38.049, 38.0), ("temperature", 35.05, 35.1), ("heart_rate", 90.5, 91),
     ("heart_rate", 90.49, 90), ("respiratory_rate", 24.5, 25), ("spo2", 91.5, 92), ("systolic", 219.5, 220)],
)  # fmt: skip
def test_half_is_rounded_up_on_the_decimal_digits(name: str, value: float, rounded: float) -> None:
    assert news2.points(name, value)[0] == rounded


def test_100_point_5_fahrenheit_is_38_1() -> None:
    exact = (Fraction("100.5") - 32) * 5 / 9
    assert news2.points("temperature", float(exact)) == (38.1, 1)


def test_words() -> None:
    assert [news2.points("consciousness", letter)[1] for letter in "ACVPU"] == [0, 3, 3, 3, 3]
    assert news2.points("oxygen", "air")[1] == 0
    assert news2.points("oxygen", "oxygen")[1] == 2
    with pytest.raises(KeyError):
        news2.points("consciousness", "sleepy")


def test_scale_2_above_92_with_oxygen_unknown_scores_nothing_and_is_at_least() -> None:
    score = news2.score({"spo2": (97.0, NOW)}, scale=2)
    assert (score.total, score.at_least, "oxygen" in score.missing) == (0, True, True)


def full(**changed: float | str) -> News2:
    values: dict[str, float | str] = {
        "respiratory_rate": 16.0, "spo2": 97.0, "oxygen": "air", "systolic": 120.0, "heart_rate": 70.0, "consciousness": "A",
        "temperature": 37.0,
    }  # fmt: skip
    return news2.score({name: (value, NOW) for name, value in {**values, **changed}.items()})


def test_bands() -> None:
    assert full().band == "low"
    assert full(oxygen="oxygen", heart_rate=111).band == "low"  # 4
    single = full(respiratory_rate=25)
    assert (single.total, single.band, single.single_three) == (3, "low-medium", True)
    five = full(oxygen="oxygen", heart_rate=111, temperature=38.5)
    assert (five.total, five.band) == (5, "medium")
    with_three = full(oxygen="oxygen", respiratory_rate=25)
    assert (with_three.total, with_three.band) == (5, "medium")
    seven = full(oxygen="oxygen", respiratory_rate=25, heart_rate=111)
    assert (seven.total, seven.band, seven.at_least) == (7, "high", False)
    worst = full(respiratory_rate=30, spo2=80, oxygen="oxygen", systolic=80, heart_rate=140, consciousness="U", temperature=34)
    assert (worst.total, worst.band) == (20, "high")


def test_missing_parameters_are_named_in_the_charts_order_and_never_taken_as_normal() -> None:
    score = news2.score({"heart_rate": (135.0, NOW), "temperature": (37.0, NOW)})
    assert (score.total, score.at_least, score.band) == (3, True, "low-medium")
    assert score.missing == ("respiratory_rate", "spo2", "oxygen", "systolic", "consciousness")
    assert [one.name for one in score.parameters] == ["heart_rate", "temperature"]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "respiratory_rate": st.floats(0, 80), "spo2": st.floats(50, 100), "oxygen": st.sampled_from(["air", "oxygen"]),
            "systolic": st.floats(40, 300), "heart_rate": st.floats(0, 250), "consciousness": st.sampled_from("ACVPU"),
            "temperature": st.floats(25, 44),
        },
    ),
    st.sampled_from([1, 2]),
)  # fmt: skip
def test_the_total_is_the_sum_and_knowing_more_never_lowers_it(values: dict[str, float | str], scale: news2.Scale) -> None:
    score = news2.score({name: (value, NOW) for name, value in values.items()}, scale=scale)
    assert score.total == sum(one.points for one in score.parameters)
    assert score.at_least == (len(values) < 7) == bool(score.missing)
    assert score.single_three == any(one.points == 3 for one in score.parameters)
    for name in values:
        fewer = {other: (value, NOW) for other, value in values.items() if other != name}
        assert news2.score(fewer, scale=scale).total <= score.total


def test_the_oracle_reads_its_chart() -> None:
    assert re.match(r"points", CHART.strip())
    assert oracle("temperature", Decimal("38.05")) == 1
    assert Decimal("2.5").quantize(Decimal(1), ROUND_HALF_UP) == 3


@pytest.mark.parametrize("name", ["respiratory_rate", "spo2", "systolic", "heart_rate", "temperature"])
def test_a_bound_in_one_band_scores_as_all_that_lies_beyond(name: str) -> None:
    limits = LIMITS[name]
    grid = [n / 10 for n in range(int(10 * limits.low), int(10 * limits.high) + 1)]
    asked: list[tuple[Scale, bool | None]] = [(1, None), (2, True), (2, False), (2, None)] if name == "spo2" else [(1, None)]
    scored = [[news2.points(name, value, *one)[1] for one in asked] for value in grid]
    for above in (False, True):
        found = [bound for bound in grid if one_band(name, bound, above=above)]
        for bound in found:
            at = grid.index(bound)
            beyond = scored[at:] if above else scored[: at + 1]
            assert all(one == scored[at] for one in beyond), (bound, above)
        assert found
