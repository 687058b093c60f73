"""Alerts fire when they should, and rules and dashboard ask only for metrics that exist."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.tools import MONITORING, ROOT, chart, kustomize, run, succeed, tool
from tests.tidy.documented import metrics
from tests.tidy.sources import python_files, read

pytestmark = pytest.mark.slow

RULE_TESTS = sorted(MONITORING.glob("alerts_*test.yaml"))
# What other exporters provide: NVIDIA's, Prometheus itself, kube-state-metrics.
FOREIGN = re.compile(r"DCGM_FI_\w+|up|kube_\w+")
# A histogram or summary named x has series x_bucket, x_sum and x_count.
SERIES = re.compile(r"(_bucket|_sum|_count)$")
# Grafana fills these in before Prometheus sees them.
VARIABLES = {"$__rate_interval": "5m", "$lake": ".*", "$1": "x"}


def rules() -> list[dict[str, Any]]:
    text = (MONITORING / "alerts.yaml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    page: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    return page


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of every alert and every panel, as Prometheus gets it."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"]
            for variable, value in VARIABLES.items():
                expr = expr.replace(variable, value)
            yield panel["title"], expr


def selected(expr: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels it is selected by) of each selector in an expression."""
    parser: Any = pytest.importorskip("promql_parser", reason="PyPI promql-parser")

    def walk(node: Any) -> Iterator[tuple[str, set[str]]]:
        if isinstance(node, parser.VectorSelector):
            yield node.name, {matcher.name for matcher in node.matchers.matchers}
        for part in ("vector_selector", "expr", "lhs", "rhs", "param"):
            inner = getattr(node, part, None)
            if inner is not None and not isinstance(inner, str):
                yield from walk(inner)
        for argument in getattr(node, "args", None) or []:
            yield from walk(argument)

    yield from walk(parser.parse(expr))


def declared() -> set[str]:
    """Every metric that the sources of lakefeed declare."""
    return {name for path in python_files("lakefeed/metrics") for name in metrics(read(path))}


def test_prometheus_accepts_the_rules() -> None:
    promtool = tool("promtool", "Debian prometheus")
    assert "SUCCESS" in succeed(promtool, "check", "rules", "alerts.yaml", cwd=MONITORING)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool = tool("promtool", "Debian prometheus")
    names = [path.name for path in RULE_TESTS]
    assert "SUCCESS" in succeed(promtool, "test", "rules", *names, cwd=MONITORING)


def test_every_alert_is_tested_both_ways() -> None:
    cases = [t for p in RULE_TESTS for t in yaml.safe_load(p.read_text(encoding="utf-8"))["tests"]]
    fires = {c["alertname"] for t in cases for c in t["alert_rule_test"] if c["exp_alerts"]}
    rests = {c["alertname"] for t in cases for c in t["alert_rule_test"] if not c["exp_alerts"]}
    names = {rule["alert"] for rule in rules()}
    assert names - fires == set()
    assert names - rests == set()


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    page = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    headings = {line.lstrip("# ") for line in page.splitlines() if line.startswith("#")}
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description", "runbook"} == set(rule["annotations"])
        assert rule["annotations"]["runbook"] == f"docs/OPERATIONS.md#{rule['alert'].lower()}"
        assert rule["alert"] in headings, f"no runbook for {rule['alert']}"


def test_the_written_files_are_up_to_date() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="PyPI grafana-foundation-sdk")
    succeed(sys.executable, str(MONITORING / "generate.py"), "--check")


def test_every_expression_is_promql() -> None:
    for where, expr in expressions():
        assert list(selected(expr)), where


def test_every_metric_that_is_asked_for_exists() -> None:
    known = declared()
    asked = {name for _, expr in expressions() for name, _ in selected(expr)}
    unknown = {
        name
        for name in asked
        if not FOREIGN.fullmatch(name) and name not in known and SERIES.sub("", name) not in known
    }
    assert sorted(unknown) == []


def test_the_panels_of_a_lake_can_be_narrowed_to_it() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for name, labels in selected(target["expr"].replace("$__rate_interval", "5m")):
                if name.startswith(("lakefeed_compactor", "lakefeed_index", "lakefeed_scrub")):
                    assert "lake" in labels, panel["title"]


def test_gpu_panels_take_either_spelling_of_the_host() -> None:
    seen = 0
    for panel in panels():
        for target in panel["targets"]:
            if "DCGM_FI" in target["expr"]:
                assert '"Hostname"' in target["expr"], panel["title"]
                assert '"hostname"' in target["expr"], panel["title"]
                seen += 1
    assert seen >= 3


def test_every_panel_explains_itself_and_has_its_own_place() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in panels()]
    assert len(places) == len(set(places)) >= 30
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(numbers) == len(set(numbers))
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert [t["refId"] for t in panel["targets"]] == list("ABCDE")[: len(panel["targets"])]


def test_chart_and_kustomize_carry_the_same_rules_and_dashboard() -> None:
    wrapped = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text(encoding="utf-8"))
    plain = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    assert wrapped["spec"] == plain
    documents = chart("everything-values.yaml")
    (rule,) = [d for d in documents if d["kind"] == "PrometheusRule"]
    assert rule["spec"] == plain
    (page,) = [d for d in documents if d["metadata"]["name"].endswith("-dashboard")]
    assert json.loads(page["data"]["lakefeed.json"]) == dashboard()


def test_the_monitor_finds_the_service() -> None:
    for documents in (chart("everything-values.yaml"), kustomize("overlays/monitored")):
        (monitor,) = [d for d in documents if d["kind"] == "ServiceMonitor"]
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [
            d
            for d in documents
            if d["kind"] == "Service" and wanted <= d["metadata"]["labels"].items()
        ]
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_a_rule_that_is_no_promql_is_noticed(tmp_path: Any) -> None:
    promtool = tool("promtool", "Debian prometheus")
    text = (MONITORING / "alerts.yaml").read_text(encoding="utf-8")
    (tmp_path / "alerts.yaml").write_text(text.replace("> 0.1", ">> 0.1", 1), encoding="utf-8")
    assert run(promtool, "check", "rules", str(tmp_path / "alerts.yaml")).returncode != 0
