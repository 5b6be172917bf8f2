"""What third parties repeat: said, then ever more rarely, and anew once it was quiet."""

import logging

from streams.log import Limit


def _record(topic: str = "clinical.notes") -> logging.LogRecord:
    words = "Topic %s not found in cluster metadata"
    return logging.LogRecord("aiokafka.cluster", logging.ERROR, __file__, 1, words, (topic,), None)


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_that_is_repeated_for_ever_comes_ever_more_rarely() -> None:
    clock = _Clock()
    limit = Limit(clock=clock)
    came: list[tuple[float, str]] = []
    for step in range(10 * 3600 * 2):
        clock.now = 1000.0 + step / 2
        record = _record()
        if limit.filter(record):
            came.append((step / 2, record.getMessage()))
    assert [at for at, _ in came[:5]] == [0, 5, 15, 35, 75]
    assert len(came) < 24, "in ten hours"
    assert came[-1][0] - came[-2][0] == 3600
    assert came[0][1] == "Topic clinical.notes not found in cluster metadata"
    assert came[1][1].endswith("(and 9 more like it)")


def test_what_comes_back_after_a_quiet_time_is_said_at_once() -> None:
    clock = _Clock()
    limit = Limit(clock=clock)
    for _ in range(100):
        limit.filter(_record())
        clock.now += 1
    clock.now += 3600
    assert limit.filter(_record()), "another outage"
    clock.now += 5
    assert limit.filter(_record()), "with the first pause again"


def test_other_lines_are_not_kept_back() -> None:
    limit = Limit(clock=_Clock())
    assert limit.filter(_record())
    assert not limit.filter(_record("clinical.vitals")), "the same pattern"
    assert limit.filter(logging.LogRecord("aiokafka.conn", logging.ERROR, __file__, 1, "Unable to connect", (), None))
