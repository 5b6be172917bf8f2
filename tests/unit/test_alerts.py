"""infra/prometheus/alerts.yml asks for metrics that there are, and every alert has its entry in the runbook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.metrics import EdgeMetrics, LaneMetrics

INFRA = Path(__file__).parents[2] / "infra"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
METRICS = {
    name: set(collector._labelnames if hasattr(collector, "_labelnames") else ())
    for registry in (LaneMetrics("x").registry, EdgeMetrics().registry)
    for collector, names in registry._collector_to_names.items()
    for name in names
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    named = re.findall(r"\b(vigil_\w+)(?:\{([^}]*)\})?", rule["expr"])
    assert named or 'job="vigil"' in rule["expr"]
    labels: set[str] = {"instance"}
    for metric, matchers in named:
        assert metric in METRICS
        labels |= METRICS[metric]
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= METRICS[metric]
    for words in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", words)) <= labels
    for groups in re.findall(r"by \(([^)]*)\)", rule["expr"]):
        assert {label.strip() for label in groups.split(",")} <= labels


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"infra/runbook.md#{rule['alert'].lower()}"


def test_the_runbook_has_each_alert_once() -> None:
    entries = re.findall(r"^## (\w+)\n(.+)", (INFRA / "runbook.md").read_text(), flags=re.M)
    assert sorted(name for name, _ in entries) == sorted(rule["alert"] for rule in RULES)
