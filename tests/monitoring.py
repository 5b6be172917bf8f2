"""What infra/prometheus, infra/grafana and infra/runbook say, read for tests; and what the real registries export."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import typer
import yaml
from prometheus_client import ProcessCollector

from streams.cli import _register, app
from streams.metrics import EdgeMetrics, LaneMetrics

INFRA = Path(__file__).parent.parent / "infra"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
DASHBOARDS: dict[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text()) for file in sorted((INFRA / "grafana" / "dashboards").glob("*.json"))
}
PANELS: list[dict[str, Any]] = [panel for board in DASHBOARDS.values() for panel in board["panels"] if panel["type"] != "row"]

_SELECTOR = re.compile(r"(?<![\w:.$\"'])((?:vigil|process)[_:][\w:]+|up|ALERTS)\b(?!\s*\()(?:\{([^}]*)\})?")
_SCRAPED = {"job", "instance"}  # what Prometheus itself adds
_BY = re.compile(r"\b(?:by|on|ignoring|without)\s*\([^)]*\)|\"[^\"]*\"")


def promtool() -> str | None:
    """Where Prometheus' own tool is."""
    return shutil.which("promtool")


def selectors(expr: str) -> list[tuple[str, str]]:
    """The metrics that a query names, each with its matchers."""
    return _SELECTOR.findall(expr)


def matched(matchers: str) -> set[str]:
    """The labels in a selector's braces."""
    return set(re.findall(r"(\w+)\s*[=!]", matchers))


def exported() -> dict[str, set[str]]:
    """The samples that a lane, a delivery and the connectors export, with their labels: asked of the registries themselves."""
    found: dict[str, set[str]] = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}  # Prometheus' own
    for registry in (LaneMetrics("x").registry, EdgeMetrics().registry):
        for collector, names in registry._collector_to_names.items():
            if isinstance(collector, ProcessCollector):
                found.update({sample.name: set() for family in collector.collect() for sample in family.samples})
            elif hasattr(collector, "_labelnames"):
                found.update({name: set(collector._labelnames) for name in names})
            else:
                for family in collector.describe():
                    found.update({name: set(family._labelnames) for name in names if name.startswith(family.name)})
    return found


_EXPORTED = exported()


def labels_of(metric: str) -> set[str] | None:
    """The labels that a metric's series have once Prometheus has scraped or recorded them; None where nobody exports it."""
    if metric in RECORDED:
        return set(re.findall(r"\w+", _last_by(RECORDED[metric]))) - {"le"}
    if metric not in _EXPORTED:
        return None
    return _EXPORTED[metric] | _SCRAPED | ({"le"} if metric.endswith("_bucket") else set())


def _last_by(expr: str) -> str:
    (groups,) = re.findall(r"sum by \(([^)]*)\)", expr)
    return str(groups)


def root() -> Any:
    """The command `vigil` itself."""
    if not app.registered_groups:
        _register()
    return typer.main.get_command(app)


def command(words: list[str]) -> Any:
    """The command of `vigil` that these words begin with, as far as they are its name; None where there is none."""
    here = root()
    for word in words:
        if not hasattr(here, "commands"):
            return here  # the rest are its arguments
        if word not in here.commands:
            return None
        here = here.commands[word]
    return here
