"""Your own training, measured in one line: `watch` for any loader, `keras` for Keras.

    for batch in lakefeed.monitor.watch(loader, "run.html"):
        step(batch)

    model.fit(**lakefeed.monitor.keras(train, "run.html"), epochs=5)

Both write the report that `lakefeed bench` writes: waits, compute share, GPU busy, a verdict.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from lakefeed.errors import needing

with needing("bench", __name__):
    from lakefeed.bench import page
    from lakefeed.bench.monitoring import Monitor, MonitorOptions, watch

__all__ = ["Monitor", "MonitorOptions", "keras", "watch"]


def keras(dataset: Any, report: str | Path = "training.html", **more: Any) -> dict[str, Any]:
    """Return the arguments of `model.fit` that measure it: `x`, `callbacks`, and no shuffling.

    `more` are the fields of `MonitorOptions`. A report that cannot be written is told at once.
    """
    # Imported here, so that a PyTorch user needs no TensorFlow.
    module = import_module("lakefeed.bench.monitor_keras")
    page.check(Path(report))
    callback = module.KerasMonitor(Monitor(MonitorOptions(report, **more)))
    return {"x": callback.mark(dataset), "callbacks": [callback], "shuffle": False}
