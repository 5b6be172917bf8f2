"""The site's rules: every one with its reason, whole after a round trip, nonsense refused."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from processors import rules
from processors.rules import MonitorRules


def models() -> list[type[BaseModel]]:
    return [
        one
        for one in vars(rules).values()
        if isinstance(one, type) and issubclass(one, rules._Rules) and one is not rules._Rules
    ]


def test_every_rule_says_why() -> None:
    """A default stands with its reason: at the field, or for a family of fields in the class's words."""
    families = {"CarryForward", "Silence", "Persistence", "FeedSilence", "EscalationStep", "CeilingPolicy"}
    bare = {
        f"{one.__name__}.{name}"
        for one in models()
        for name, field in one.model_fields.items()
        if not field.description and one.__name__ not in families
    }
    nested = {f"MonitorRules.{name}" for name in ("carry_forward", "persistence", "silence", "feed_silence", "default_route")}
    nested |= {"MonitorRules.repeat_last", "MonitorRules.acknowledged_for"}
    assert bare - nested == set()
    assert all(len(one.__doc__ or "") > 40 for one in models())


def test_round_trip_and_frozen() -> None:
    made = MonitorRules()
    assert MonitorRules.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValidationError):
        made.hysteresis = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"hysteresis": -1},
        {"model_threshold": 0},
        {"minimum_severity": "none"},
        {"unknown_rule": 1},
        {"ward_budget": 0},
        {"silence": {"x": 1}},
        {"queue_wait": "6m"},
    ],
)
def test_nonsense_is_refused(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MonitorRules(**nonsense)


def test_the_model_does_not_page_by_default() -> None:
    assert MonitorRules().model_pages is False
