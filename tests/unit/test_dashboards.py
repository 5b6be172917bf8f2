"""infra/grafana: a dashboard that Grafana can load, whose every panel has a query, a unit, words, and a place of its own.

Grafana is not needed: what it would trip over is looked for here. tests/integration/test_prometheus.py runs every query.
"""

import json
import re
from typing import Any

import pytest
import yaml

from tests.monitoring import ALERTS, DASHBOARDS, INFRA, PANELS, RECORDED, labels_of, selectors

# grafana/packages/grafana-data/src/valueFormats/categories.ts
UNITS = {"none", "short", "s", "bytes", "percentunit", "recps", "eps", "mps", "ops"}
TARGETS = [(panel, target) for panel in PANELS for target in panel.get("targets", ())]


def named(panel: Any) -> str:
    return str(panel["title"]) if isinstance(panel, dict) and "title" in panel else ""


@pytest.mark.parametrize("board", DASHBOARDS.values(), ids=list(DASHBOARDS))
def test_a_dashboard_has_what_grafana_needs(board: dict[str, Any]) -> None:
    assert board["uid"] and board["title"] and board["schemaVersion"] >= 36
    assert "id" not in board  # a number of one Grafana's own: another refuses it
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
    assert used <= {*variables, "__rate_interval", "__all"}
    assert set(variables) <= used


@pytest.mark.parametrize("board", DASHBOARDS.values(), ids=list(DASHBOARDS))
def test_no_panel_lies_on_another(board: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("panel", PANELS, ids=named)
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("stat", "timeseries", "table")
    assert panel["title"]
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    limits = [step["value"] for step in steps]
    assert limits[0] is None and limits[1:] == sorted(limits[1:])


@pytest.mark.parametrize(("panel", "target"), TARGETS, ids=named)
def test_a_legend_names_labels_that_the_query_gives(panel: dict[str, Any], target: dict[str, Any]) -> None:
    assert target["datasource"] == panel["datasource"]
    groups = re.findall(r"\bby \(([^)]*)\)", target["expr"])
    given = set(re.findall(r"\w+", groups[0])) if groups else set()
    if not groups and not re.search(r"\b(sum|max|min|count)\b", target["expr"]):
        given = set().union(*(labels_of(metric) or set() for metric, _ in selectors(target["expr"])))
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= given - {"le"}
    if panel["type"] == "timeseries" and given - {"le"}:
        assert "{{" in target["legendFormat"], "lines that nobody can tell apart"


def test_a_seconds_panel_shows_seconds_and_a_bytes_panel_bytes() -> None:
    for panel, target in TARGETS:
        metrics = [metric for metric, _ in selectors(target["expr"])]
        unit = panel["fieldConfig"]["defaults"]["unit"]
        if "rate(" in target["expr"] and "histogram_quantile" not in target["expr"]:
            continue  # another unit than its metric's
        if any("bytes" in metric for metric in metrics):
            assert unit == "bytes", panel["title"]
        if any("seconds" in metric for metric in metrics) and not re.search(r"\b(count|changes)\(", target["expr"]):
            assert unit == "s", panel["title"]


def test_each_alert_has_a_metric_on_the_dashboard() -> None:
    """Who is woken finds what woke him."""
    shown = {metric.removesuffix("_bucket") for _, target in TARGETS for metric, _ in selectors(target["expr"])}

    def asked(expr: str) -> set[str]:
        named = {metric.removesuffix("_bucket") for metric, _ in selectors(expr)}
        return named.union(*(asked(RECORDED[metric]) for metric in named if metric in RECORDED))

    missing = {rule["alert"]: asked(rule["expr"]) for rule in ALERTS if not asked(rule["expr"]) & shown}
    assert missing == {}


def test_grafana_finds_the_dashboards_and_prometheus() -> None:
    provisioning = INFRA / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "vigil.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "vigil.yaml").read_text())["providers"]
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in services["grafana"]["volumes"]}
    assert (INFRA / mounted[provider["options"]["path"]]).resolve() == (INFRA / "grafana" / "dashboards").resolve()
    assert (INFRA / mounted["/etc/grafana/provisioning"]).resolve() == provisioning.resolve()
    assert source["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    targets = [one for job in scraped["scrape_configs"] for config in job["static_configs"] for one in config["targets"]]
    for target in targets:  # each is a service of the compose file, on a port that it opens to the others
        service, port = target.split(":")
        spans = [span.split("-") for span in services[service]["expose"]]
        assert any(int(span[0]) <= int(port) <= int(span[-1]) for span in spans), target
