"""A short run of schemathesis against `vigil serve`: no 5xx, FHIR in every answer, and what was answered with 2xx is in Kafka."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.api import fuzz
from tests.kafka import Kafka


@pytest.mark.kafka
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed (extra dev)")
def test_no_request_breaks_the_fhir_endpoint_and_what_it_takes_is_in_kafka(kafka: Kafka, tmp_path: Path) -> None:
    found = fuzz(kafka, tmp_path, examples=5, seconds=8, phases="examples,fuzzing", shallow=True)
    sys.stdout.write(found.output)  # whole: pytest cuts what an assertion says
    assert found.clean, (found.lost, found.silent)
    assert found.statuses[201] >= 3  # the document's own examples at least
    assert found.stored >= 3
