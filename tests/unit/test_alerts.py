"""infra/prometheus and infra/grafana ask for metrics and labels that there are, and every alert has its page in infra/runbook."""

import asyncio
import re
import shlex
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from models.errors import Permanent
from streams.lagging import READS
from tests import monitoring
from tests.monitoring import ALERTS, INFRA, PANELS, RECORDED, RULES, labels_of, promtool

GUIDES = {"Again"}  # pages without an alert
USAGE = 2  # how click ends a command whose words it does not take
LANES = {
    *READS,
    *(f"connector.{name}" for name in ("hl7", "fhir", "dicom", "vitals")),
    "deliver-NAME",
    "LANE",
}  # of a letter too
QUERIES = {
    **{f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in RULES},
    **{f"panel {panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel.get("targets", ())},
}


@pytest.mark.parametrize("expr", QUERIES.values(), ids=list(QUERIES))
def test_a_query_asks_for_metrics_and_labels_that_there_are(expr: str) -> None:
    named = monitoring.selectors(expr)
    assert named
    labels: set[str] = set()
    for metric, matchers in named:
        own = labels_of(metric)
        assert own is not None, f"nobody exports {metric}"
        assert monitoring.matched(matchers) <= own, f"{metric} has no such labels: {matchers}"
        labels |= own
    for groups in re.findall(r"\b(?:by|on|without) ?\(([^)]*)\)", expr):
        assert {label.strip() for label in groups.split(",") if label.strip()} <= labels | {"le"}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"infra/runbook/{rule['alert']}.md"
    labels = set().union(*(labels_of(metric) or set() for metric, _ in monitoring.selectors(rule["expr"])))
    for words in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", words)) <= labels


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_recorded_is_asked_for(name: str) -> None:
    assert any(name in expr for query, expr in QUERIES.items() if query != f"rule {name}")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_a_runbook_page_says_what_to_look_at_and_to_type(rule: dict[str, Any]) -> None:
    page = (INFRA.parent / rule["annotations"]["runbook"]).read_text()
    assert page.startswith(f"# {rule['alert']}\n")
    parts = dict(re.findall(r"^## (.+)\n\n((?:(?!^## ).*\n?)+)", page, flags=re.M))
    assert list(parts)[:3] == ["What it means", "Where to look", "What to do"]
    assert all(text.strip() for text in parts.values())


def test_every_page_has_its_alert_and_stands_in_the_index() -> None:
    folder = INFRA / "runbook"
    pages = {page.stem for page in folder.glob("*.md")} - {"README"}
    assert pages - GUIDES == {rule["alert"] for rule in ALERTS}
    assert sorted(re.findall(r"^- \[(\w+)\]\(\1\.md\): .", (folder / "README.md").read_text(), flags=re.M)) == sorted(pages)
    for page in folder.glob("*.md"):
        for name in re.findall(r"\b(Vigil[A-Z]\w+)", page.read_text()):
            assert name in pages, f"{page.name} sends one to {name}, which there is not"


def _commands() -> list[tuple[str, str]]:
    found = {}
    for page in (INFRA / "runbook").glob("*.md"):
        for words in re.findall(r"\bvigil ((?:[a-z][a-z0-9-]+ ?)+)((?:[^`\n#]*))", page.read_text()):
            found[words[0].strip(), words[1].strip()] = page.name
    return list(found)


@pytest.mark.parametrize(("command", "rest"), _commands(), ids=lambda words: str(words)[:40])
def test_a_command_of_the_runbook_is_understood(command: str, rest: str) -> None:
    found = monitoring.command(command.split())
    assert found is not None, f"there is no `vigil {command}`"
    options = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"(?<!\S)(--[a-z][a-z-]*)", rest)) <= options
    assert set(re.findall(r"--lane (\S+)", rest)) <= LANES


def _lines() -> list[str]:
    """What a page says to type, or shows typed: the lines of `vigil` between its fences."""
    pages = [page.read_text() for page in sorted((INFRA / "runbook").glob("*.md"))]
    fenced = [block for page in pages for block in re.findall(r"^```\w*\n(.*?)^```", page, flags=re.M | re.S)]
    found = [words for block in fenced for words in re.findall(r"^(?:\$ )?vigil (.+)$", block, flags=re.M)]
    lines = dict.fromkeys(shlex.join(shlex.split(words, comments=True)) for words in found)
    return [words for words in lines if words != "doctor"]  # that has no words to take, and looks about


class _Begun(Exception):
    """The command has taken its words, and begins to work."""


@pytest.mark.parametrize("words", _lines())
def test_what_the_runbook_says_to_type_is_enough(words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def begins(work: Coroutine[Any, Any, Any], **_: Any) -> None:
        work.close()
        raise _Begun

    monkeypatch.setattr(asyncio, "run", begins)
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(monitoring.root(), shlex.split(words))
    assert not isinstance(ran.exception, SystemExit) or ran.exit_code != USAGE, ran.output
    if isinstance(ran.exception, Permanent):  # of a placeholder (ID, SAMPLES), which is no fault of the line's
        assert "need" not in str(ran.exception)


def test_each_alert_is_made_to_fire_by_a_rule_test() -> None:
    tests = [
        one for file in (INFRA / "prometheus" / "tests").glob("*.yml") for one in yaml.safe_load(file.read_text())["tests"]
    ]
    fires = {
        name
        for test in tests
        for asked in test["promql_expr_test"]
        for sample in asked.get("exp_samples", ())
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fires == {rule["alert"] for rule in ALERTS}


@pytest.mark.skipif(promtool() is None, reason="promtool is not on PATH (apt-get install prometheus)")
class TestPromtool:
    """What Prometheus' own tool says of the files."""

    @staticmethod
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(promtool()), *words], capture_output=True, text=True, timeout=240)

    def test_the_configuration_and_its_rules_are_right(self) -> None:
        said = self.run("check", "config", INFRA / "prometheus" / "prometheus.yml")
        assert said.returncode == 0, said.stderr
        assert f"{len(RULES)} rules found" in self.run("check", "rules", INFRA / "prometheus" / "alerts.yml").stdout

    @pytest.mark.parametrize("file", sorted((INFRA / "prometheus" / "tests").glob("*.yml")), ids=lambda file: str(file.name))
    def test_rules_fire_when_they_should_and_only_then(self, file: Path) -> None:
        said = self.run("test", "rules", file)
        assert said.returncode == 0, said.stdout + said.stderr

    def test_a_rule_that_is_wrong_fails_its_test(self, tmp_path: Path) -> None:
        """The rule tests can fail: with any one alert's threshold turned round, they do."""
        (tmp_path / "tests").mkdir()
        rules = (INFRA / "prometheus" / "alerts.yml").read_text()
        assert rules.count("> 0) > 60") == 1
        (tmp_path / "alerts.yml").write_text(rules.replace("> 0) > 60", "> 0) > 60000"))
        copy = tmp_path / "tests" / "lanes.yml"
        copy.write_text((INFRA / "prometheus" / "tests" / "lanes.yml").read_text())
        said = self.run("test", "rules", copy)
        assert said.returncode != 0
        assert "VigilVitalsLag" in said.stdout + said.stderr
