"""Alert rules and the dashboard use metrics that exist, and each alert has its section in docs/operations.md."""

import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from deploy.grafana import dashboard
from service.http.gauges import HEALTH, VIOLATIONS

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "alerts.yaml"
RULES_TEST = PROMETHEUS / "alerts.test.yaml"
NAME = re.compile(r"\bels_[a-z_]+")


def alerts() -> list[dict[str, Any]]:
    groups = yaml.load(RULES.read_text(), yaml.CSafeLoader)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def names() -> set[str]:
    """Returns the names of all metrics of a pod."""
    importlib.import_module("service.runtime.metrics")
    registered = {name for name in REGISTRY._names_to_collectors if name.startswith("els_")}
    return registered | HEALTH.keys() | VIOLATIONS.keys() | {"els_build_info", "els_part_healthy"}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_is_there_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert set(NAME.findall(rule["expr"])) <= names()
    assert NAME.search(rule["expr"])
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    section = (ROOT / "docs" / "operations.md").read_text().split(f"\n### {rule['alert']}\n\n")
    assert len(section) == 2
    assert section[1].startswith("*"), "it begins with the question"
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}#{rule['alert'].lower()}"


RUNBOOKS = alerts()[0]["annotations"]["runbook_url"].partition("#")[0]
"""The address of docs/operations.md: a placeholder in this repository, and the user's own after `sed`."""


def test_the_address_of_the_runbooks_is_that_of_our_page_and_the_docs_say_how_to_set_it() -> None:
    assert RUNBOOKS.startswith("https://")
    assert RUNBOOKS.endswith("/operations.md")
    assert "https://runbooks.example/" in (ROOT / "docs" / "deployment.md").read_text()


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_fires_in_a_test_with_its_runbook(rule: dict[str, Any]) -> None:
    """promtool compares what fires with these expectations."""
    expected = [
        fired
        for test in yaml.load(RULES_TEST.read_text(), yaml.CSafeLoader)["tests"]
        for each in test["alert_rule_test"]
        if each["alertname"] == rule["alert"]
        for fired in each["exp_alerts"]
    ]
    assert expected
    assert {each["exp_annotations"]["runbook_url"] for each in expected} == {rule["annotations"]["runbook_url"]}


def test_the_dashboard_asks_for_what_is_there() -> None:
    asked = {name for expression in dashboard.expressions() for name in NAME.findall(expression)}
    assert asked <= names()
    missing = {"els_consumer_lag", "els_outbox_pending", "els_invariant_violations"} - asked
    assert not missing


def test_panels_and_alerts_lead_to_each_other_and_to_what_the_runbooks_say() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {f"{RUNBOOKS}#{dashboard.anchor(heading)}" for heading in headings}
    made = dashboard.dashboard()
    panels = [panel for panel in made["panels"] if panel["type"] not in ("row", "alertlist")]
    linked = [[link["url"] for link in each["links"]] for each in (made, *panels)]
    assert all(linked)
    assert {url for urls in linked for url in urls} <= anchors
    assert {rule["annotations"]["dashboard_url"].rpartition("/")[2] for rule in alerts()} == {made["uid"]}


def filled(expression: str, cell: str = ".*") -> str:
    """Returns a query of the dashboard as Grafana sends it."""
    return expression.replace("$cell", cell).replace("$__rate_interval", "1m")


def test_every_query_is_of_the_selected_cells() -> None:
    for expression in dashboard.expressions():
        assert len(NAME.findall(expression)) == expression.count('cell=~"$cell"') > 0, expression
    (cell,) = (each for each in dashboard.dashboard()["templating"]["list"] if each["name"] == "cell")
    assert (cell["multi"], cell["includeAll"], cell["allValue"]) == (True, True, ".*")


def test_the_queries_are_right_with_cells_and_without(promtool: str, tmp_path: Path) -> None:
    """Two pods report the same number of their database: amounts are those of all cells together, or of some."""
    (outbox,) = {each for each in dashboard.expressions() if each.startswith("sum(max by (cell) (els_outbox_pending")}
    (lag,) = {each for each in dashboard.expressions() if each.startswith("sum by (cell) (els_consumer_lag")}
    plain = {f'els_outbox_pending{{instance="{pod}"}}': 5 for pod in "ab"}
    of_cells = {f'els_outbox_pending{{cell="{cell}",instance="{pod}"}}': 5 + cell for pod in "ab" for cell in (0, 1)}
    lags = {f'els_consumer_lag{{cell="{cell}"}}': 1 + cell for cell in (0, 1)}
    cases = [
        (plain, outbox, ".*", {"{}": 5}),
        (of_cells, outbox, ".*", {"{}": 11}),
        (of_cells, outbox, "1", {"{}": 6}),
        (of_cells, outbox, "(0|1)", {"{}": 11}),
        (lags, lag, ".*", {'{cell="0"}': 1, '{cell="1"}': 2}),
    ]
    tests = [
        {
            "input_series": [{"series": name, "values": str(value)} for name, value in series.items()],
            "promql_expr_test": [
                {
                    "expr": filled(query, cell),
                    "eval_time": "0m",
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
                }
            ],
        }
        for series, query, cell, expected in cases
    ]
    rules = [{"record": f"all:{n}", "expr": filled(each)} for n, each in enumerate(dashboard.expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    told = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_dashboard_file_is_what_the_code_makes() -> None:
    assert dashboard.FILE.read_text() == dashboard.rendered(), "run python -m deploy.grafana.dashboard"


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.dashboard()["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken
        assert grid["x"] + grid["w"] <= dashboard.WIDTH
        taken |= cells


@pytest.mark.parametrize("command", [["check", "rules", RULES], ["test", "rules", RULES_TEST]], ids=["check", "test"])
def test_promtool_finds_the_rules_right(promtool: str, command: list[str | Path]) -> None:
    told = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
