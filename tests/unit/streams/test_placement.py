"""By how many partitions records were spread."""

import pytest

from models.errors import Fatal
from streams.outbox import partition_of
from streams.placement import require, spread


def places(number: int, patients: int = 40, *, only: int | None = None) -> list[tuple[bytes, int]]:
    keys = [f"patient-{n}".encode() for n in range(patients)]
    found = [(key, partition_of(key, number)) for key in keys]
    return [one for one in found if only is None or one[1] == only]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6, 12])
def test_the_number_is_found_by_the_records(number: int) -> None:
    assert spread(places(number), 12, 12) == number
    assert spread(places(number), number, 12) == number


@pytest.mark.parametrize("only", [0, 1])
def test_one_partition_alone_shows_it_too(only: int) -> None:
    assert spread(places(2, only=only), 4, 4, whole=False) == 2


def test_nothing_is_concluded_from_few_or_from_a_partitioner_of_somebodys_own() -> None:
    assert spread(places(2, patients=7), 4, 4) == 4
    assert spread([(f"patient-{n}".encode(), n % 4) for n in range(40)], 4, 4) == 4
    assert spread([*places(4)[:38], (b"astray", 9)], 4, 12) == 4
    assert spread([(key, 0) for key, _ in places(3, only=1)], 4, 4, whole=False) == 4


def test_the_setting_that_fits_is_named() -> None:
    with pytest.raises(Fatal, match="lie in 2 partitions, and the settings spread them over 4") as refused:
        require("clinical.patients", places(2), 4, 4)
    assert "topics.partitions to 2" in (refused.value.hint or "")
