"""The Prometheus operator's objects, held against the models generated from its definitions.

The models ignore fields that they do not know, so an object is also compared with what the model
kept of it: whatever is missing there, the operator would not see either.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.tools import Document, everything

pytestmark = pytest.mark.slow


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Fields of `before` that are not in `after`."""
    if isinstance(before, dict):
        found = []
        for key, value in before.items():
            where = f"{path}.{key}"
            found += [where] if key not in after else lost(value, after[key], where)
        return found
    if isinstance(before, list):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for i, (b, a) in pairs for line in lost(b, a, f"{path}[{i}]")]
    return []


def refused(document: Document) -> list[str]:
    models: Any = pytest.importorskip(
        "cloudcoil.models.prometheus_operator.v1",
        reason="PyPI cloudcoil-models-prometheus-operator",
    )
    model = getattr(models, document["kind"])
    try:
        kept = model.model_validate(document).model_dump(by_alias=True, exclude_unset=True)
    except ValueError as error:
        return [str(error)]
    return lost(document["spec"], kept["spec"])


def test_the_operator_accepts_its_objects() -> None:
    kinds = set()
    for source, document in everything():
        if document["apiVersion"] == "monitoring.coreos.com/v1":
            assert refused(document) == [], source
            kinds.add(document["kind"])
    assert kinds == {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        ({"port": "metrics", "intervall": "30s"}, ".endpoints[0].intervall"),
        ({"port": 9464}, "endpoints.0.port"),
        ({"port": "metrics", "interval": "often"}, "endpoints.0.interval"),
    ],
)
def test_a_broken_monitor_is_noticed(endpoint: dict[str, object], complaint: str) -> None:
    monitor: Document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "x"},
        "spec": {"selector": {}, "endpoints": [endpoint]},
    }
    assert any(complaint in line for line in refused(monitor))
