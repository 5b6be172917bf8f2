from itertools import permutations
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from processors.vectors import Point
from processors.versions import Coming, Versions


def coming(received: int, offset: int, *, production: bool = True, partition: int = 0) -> Coming:
    return Coming(production, f"2026-11-30T08:00:{received:02}.000000Z", partition, offset)


def told(*comings: tuple[str, Coming]) -> Versions:
    versions = Versions()
    for version, one in comings:
        versions.take(version, one)
    return versions


def test_the_version_stands_that_came_last_by_its_first_coming() -> None:
    original, correction, again = ("v1", coming(1, 0)), ("v2", coming(5, 1)), ("v1", coming(9, 2))
    for order in permutations((original, correction, again)):
        assert told(*order).newest == "v2"
    assert told(original, correction, again, ("v3", coming(9, 3))).newest == "v3"  # corrected back, by a message of its own
    assert Versions().newest == ""


def test_of_one_moment_the_later_on_the_topic_stands() -> None:
    assert told(("b", coming(1, 0)), ("a", coming(1, 1)), ("b", coming(1, 2))).newest == "a"


def test_test_traffic_takes_the_place_of_nothing_that_is_not() -> None:
    assert told(("real", coming(1, 0)), ("test", coming(5, 1, production=False))).newest == "real"
    assert told(("test", coming(5, 0, production=False)), ("real", coming(1, 1))).newest == "real"
    assert told(("test", coming(5, 0, production=False)), ("test 2", coming(6, 1, production=False))).newest == "test 2"


COMINGS = st.builds(
    Coming,
    st.booleans(),
    st.sampled_from(["2026-11-30T08:00:00.000000Z", "2026-11-30T08:00:01.000000Z"]),
    st.integers(0, 1),
    st.integers(0, 5),
)


@given(st.lists(st.tuples(st.sampled_from("abc"), COMINGS), min_size=1), st.randoms(use_true_random=False), st.data())
def test_order_and_repeats_change_nothing(comings: list[tuple[str, Coming]], chance: Random, data: st.DataObject) -> None:
    other = [*comings, *data.draw(st.lists(st.sampled_from(comings)))]
    chance.shuffle(other)
    one, two = told(*comings), told(*other)
    assert one.newest == two.newest
    assert one.point("n").payload == two.point("n").payload
    recalled = Versions()
    recalled.recall(one.point("n").payload)
    assert recalled.newest == one.newest
    assert not recalled.to_remember(held=False)


def test_what_has_to_be_remembered() -> None:
    one = told(("v1", coming(1, 0)))
    assert (one.to_remember(held=True), one.to_remember(held=False)) == (False, True)
    one.take("v2", coming(5, 1))
    assert one.to_remember(held=True)


def test_points_of_an_earlier_release_count_as_production_and_keep_their_first_place() -> None:
    payload = {"version": "v1", "received": "2026-11-30T08:00:01.000000Z", "partition": 0, "offset": 3, "passage": "Cough."}
    versions = Versions()
    versions.hold(payload)
    assert (versions.held, versions.first("v1")) == ({"v1"}, coming(1, 3))
    point = Point("i", np.ones(1, np.float32), {**payload, "received": "2026-11-30T09:00:00.000000Z", "offset": 8})
    (placed,) = versions.placed([point], "v1")
    assert placed.payload == payload
