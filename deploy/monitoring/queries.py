"""The words a dashboard is written in: panels, rows, and the PromQL they keep repeating."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and how its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph: a title, the unit of its axis, its queries, and what to read from it."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    reading: str
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


LAKE = '{lake=~"$lake"}'
# Releases in several namespaces mount a volume each at the same place; bare metal has no namespace.
BY_LAKE = "namespace, lake"
LAKE_NAME = "{{namespace}} {{lake}}"


def host(metric: str) -> str:
    """Give a metric of NVIDIA's exporter the label `host`, whichever spelling it came with."""
    once = f'label_replace({metric}, "host", "$1", "Hostname", "(.+)")'
    return f'label_replace({once}, "host", "$1", "hostname", "(.+)")'


def rate(counter: str, by: str = "", labels: str = "") -> str:
    """Growth of a counter a second, summed over everything but the labels in `by`."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({counter}{labels}[$__rate_interval]))"


def of_lake(how: str, gauge: str) -> str:
    """One number for each chosen lake out of what the replicas say."""
    return f"{how} by ({BY_LAKE}) ({gauge}{LAKE})"


def quantiles(histogram: str, by: str = "") -> tuple[Query, ...]:
    """Median, 95th and 99th percentile of a histogram of seconds."""
    labels = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    return tuple(
        Query(
            f"histogram_quantile({q}, {rate(histogram + '_bucket', labels)})",
            f"p{round(q * 100)}{name}",
        )
        for q in (0.5, 0.95, 0.99)
    )
