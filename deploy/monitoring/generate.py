"""Write dashboard.json and prometheusrule.yaml from their sources; `--check` only compares.

dashboard.json comes from the panels_*.py through Grafana's own SDK, so that its shape is theirs;
prometheusrule.yaml wraps alerts.yaml, unchanged, for the Prometheus operator.

    python deploy/monitoring/generate.py [--check]
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import panels_service
import panels_training
import yaml
from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)
from queries import Panel

HERE = Path(__file__).resolve().parent
SOURCE = DataSourceRef("prometheus", "${datasource}")
LABELS = {"app.kubernetes.io/name": "lakefeed"}


def graph(panel: Panel) -> timeseries.Panel:
    """Return one time series panel, three of which fill a row of the grid."""
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.reading)
        .unit(panel.unit)
        .datasource(SOURCE)
        .span(8)
        .height(8)
        .min(0)
        .fill_opacity(10)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
    )
    if panel.most is not None:
        built = built.max(panel.most)
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
        built = built.with_target(target.ref_id(chr(ord("A") + index)))
    return built


def render_dashboard() -> str:
    """Return dashboard.json."""
    page = (
        dashboard.Dashboard("lakefeed")
        .uid("lakefeed")
        .description("Do the accelerators wait, and for whom? What the lake does meanwhile.")
        .tags(["lakefeed", "training", "storage"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .with_variable(
            dashboard.QueryVariable("lake")
            .label("Lake")
            .datasource(SOURCE)
            .query("label_values(lakefeed_compactor_leader, lake)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    ids = itertools.count(1)  # links to a panel use its id, so it must not depend on Grafana
    for row in (*panels_training.ROWS, *panels_service.ROWS):
        page = page.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            page = page.with_panel(graph(panel).id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=1).encode(page.build()) + "\n"


def render_rule() -> str:
    """Return prometheusrule.yaml: the rules of alerts.yaml as a Kubernetes object."""
    rules = yaml.safe_load((HERE / "alerts.yaml").read_text(encoding="utf-8"))
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "lakefeed", "labels": LABELS},
        "spec": rules,
    }
    header = "# Written by generate.py from alerts.yaml; do not edit.\n"
    return header + yaml.safe_dump(rule, sort_keys=False, width=1000)


def main(arguments: list[str]) -> int:
    """Write the files, or with --check say which are out of date; returns the exit code."""
    wanted = {"dashboard.json": render_dashboard(), "prometheusrule.yaml": render_rule()}
    stale = 0
    for name, text in wanted.items():
        path = HERE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in arguments:
            print(f"{name} is out of date: run python deploy/monitoring/generate.py")
            stale = 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
