"""What the journal remembers of who decided since its marker, and what makes two workers' stamps differ."""

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from models.tasks import ModelIdentity
from processors.monitor import Monitor
from processors.rules import MonitorRules
from streams import stamp
from streams.journal import Memory

EPOCH = {"kind": "epoch", "owner": "one"}


def memory(*bodies: dict[str, Any]) -> Memory:
    found = Memory()
    for offset, body in enumerate(bodies):
        value = orjson.dumps({"epoch": 0, **body})
        found.take(SimpleNamespace(key=b"", value=value, offset=offset, timestamp=1000 * offset, headers=()))
    return found


def marker(number: int, **more: Any) -> dict[str, Any]:
    return {"kind": "marker", "at": 0, "number": number, "ends": {}, **more}


def entry(number: int) -> dict[str, Any]:
    return {"kind": "entry", "number": number, "at": 0, "ends": {}, "now": None, "reach": 0}


def signed(*stamps: str, epoch: int = 0) -> dict[str, Any]:
    return {"kind": "stamp", "stamps": list(stamps), "epoch": epoch}


@pytest.mark.parametrize(
    ("bodies", "stamps"),
    [
        ((), set()),
        ((signed("a"), entry(1)), {"a"}),
        ((entry(1),), {""}),
        ((marker(0),), {""}),
        ((marker(0, stamp="a"), entry(1)), {"a"}),
        ((marker(0, stamp="a"), signed("a", "b")), {"a", "b"}),
        ((marker(0, stamp="a"), signed("a", "b"), entry(1), marker(1, stamp="b")), {"b"}),
        ((EPOCH, marker(0, stamp="a", epoch=1), signed("a", "z", epoch=0)), {"a", "z"}),
    ],
    ids=["new", "begun", "older", "older, marked", "marked", "taken over", "and marked", "by a zombie"],
)
def test_who_decided_since_the_marker_is_known(bodies: tuple[dict[str, Any], ...], stamps: set[str]) -> None:
    assert memory(EPOCH, *bodies).stamps == stamps


def test_what_was_told_since_the_marker_was_written_since_the_first_entry_after_it() -> None:
    assert memory(EPOCH, entry(1), entry(2), entry(3), marker(1, stamp="a")).since == 2.0
    assert memory(EPOCH, entry(1), marker(1, stamp="a"), entry(2)).since == 2.0
    assert memory(EPOCH, entry(1)).since < 0


def test_rules_code_and_a_model_that_pages_make_the_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, model, other = MonitorRules(), ModelIdentity("m", "1", "a" * 64), ModelIdentity("m", "2", "b" * 64)
    pages = MonitorRules(model_pages=True)
    assert stamp.stamp(Monitor(rules, model=model)) == stamp.stamp(Monitor(MonitorRules(), partition=3, model=other))
    assert stamp.stamp(Monitor(rules)) != stamp.stamp(Monitor(MonitorRules(hysteresis=2)))
    assert stamp.stamp(Monitor(pages, model=model)) != stamp.stamp(Monitor(pages, model=other))
    before = stamp.stamp(Monitor(rules))
    monkeypatch.setattr(stamp, "_code", lambda: "another")
    assert stamp.stamp(Monitor(rules)) != before
