"""How long what stands in an event may be."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from processors.events import MOST_OBSERVATIONS, Location, Observation, Origin, VitalsEvent, excess

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _set(**more: Any) -> VitalsEvent:
    plain: dict[str, Any] = {"id": "1", "patient_id": "p", "observed_at": NOON, "received_at": NOON, "observations": ()}
    return VitalsEvent(**plain | {"origin": Origin(protocol="vigil")} | more)


@pytest.mark.parametrize("field", ["id", "patient_id", "encounter_id", "device"])
def test_no_id_is_so_long_that_what_comes_of_the_event_fits_no_topic(field: str) -> None:
    assert getattr(_set(**{field: "x" * 512}), field)
    with pytest.raises(ValidationError) as error:
        _set(**{field: "x" * 513})
    found = excess(error.value)
    assert found is not None and (found.field, found.most, found.things) == (field, 512, "characters")


def test_a_set_holds_so_many_observations_and_no_more() -> None:
    one = Observation(code="8867-4")
    assert len(_set(observations=(one,) * MOST_OBSERVATIONS).observations) == MOST_OBSERVATIONS
    with pytest.raises(ValidationError) as error:
        _set(observations=(one,) * (MOST_OBSERVATIONS + 1))
    found = excess(error.value)
    assert found is not None and found.things == "items"


def test_another_fault_is_no_excess() -> None:
    with pytest.raises(ValidationError) as error:
        _set(observed_at="yesterday")
    assert excess(error.value) is None
    with pytest.raises(ValidationError):
        Location(ward="x" * 4_000_000)
