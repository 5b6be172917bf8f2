"""What every test may ask for: a Kafka (`kafka`, `make_topic`, `three_brokers`) and a real Qdrant server (`qdrant_server`)."""

import importlib.util
import signal
from collections.abc import Callable, Iterator

# Here, not at the session's end where its pytest plugin would import it anew: a collection of garbage in the middle of parsing its
# modules formats the traceback of what a third party left open, which parses too, and CPython 3.11 gives up (SystemError: AST
# constructor recursion depth mismatch).
import hypothesis
import pytest

from infra.kafka.jars import why_not
from infra.kafka.kafka import LocalKafka
from tests import kafka as kafkas
from tests import qdrant as qdrants

# A busy machine is no finding: what a test looks for is an answer, not how fast it comes.
hypothesis.settings.register_profile("vigil", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("vigil")

CHOICE = pytest.StashKey[kafkas.Choice]()
HAS_TORCH = importlib.util.find_spec("torch") is not None


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: its children would ignore Ctrl-C for ever
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[CHOICE] = kafkas.choose()


def pytest_report_header(config: pytest.Config) -> list[str]:
    qdrant = qdrants.binary()
    return [
        f"kafka: {config.stash[CHOICE].words}",
        f"qdrant server: {qdrant or 'none (VIGIL_TEST_QDRANT_BIN is not set); the tests against it are skipped'}",
        "torch: " + ("installed" if HAS_TORCH else "not installed; the tests that need it are skipped (make test EXTRAS=all)"),
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    choice = config.stash[CHOICE]
    for item in items:
        if choice.kind == "embedded" and item.get_closest_marker("real_kafka"):
            item.add_marker(pytest.mark.skip(reason=f"needs Apache Kafka; this is {choice.words.partition(';')[0]}"))
        if not HAS_TORCH and item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.skip(reason="needs torch (make test EXTRAS=all)"))


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[kafkas.Kafka]:
    """The Kafka of this run (tests/kafka.py), started when the first test asks for it."""
    with kafkas.running(pytestconfig.stash[CHOICE]) as running:
        yield running


@pytest.fixture(autouse=True)
def _kafka_lives_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test may kill or freeze the shared broker: the next one finds it well."""
    yield
    if "kafka" in request.fixturenames:
        request.getfixturevalue("kafka").mend()


@pytest.fixture
def make_topic(kafka: kafkas.Kafka, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Create topics named after the test: `make_topic(partitions=4, cleanup_policy="compact")` returns the name."""
    stem = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:80]

    def make(suffix: str = "", partitions: int = 4, **config: str) -> str:
        return kafka.topic(f"{stem}.{suffix}" if suffix else stem, partitions, **config)

    return make


@pytest.fixture(scope="module")
def three_brokers() -> Iterator[LocalKafka]:
    """A local Kafka of three brokers (replication 3, two in sync) for one module's tests, about 1 GB of memory."""
    if reason := why_not():
        pytest.skip(f"needs the local Kafka, and there is {reason}")
    with kafkas.local_kafka(brokers=3) as local:
        yield local


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[qdrants.QdrantServer]:
    """A real Qdrant server (tests/qdrant.py); skips where VIGIL_TEST_QDRANT_BIN names none."""
    program = qdrants.binary()
    if program is None:
        pytest.skip("needs a real Qdrant server: VIGIL_TEST_QDRANT_BIN names no binary")
    with qdrants.qdrant_server(program) as server:
        yield server
