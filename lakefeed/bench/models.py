"""Models that take real steps: what they have in common, and how one is made.

The framework is imported only when its trainer is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid

CLASSES = 10
SIDES = {"cnn": 32, "resnet50": 224}
Ready = Any  # a framework's tensors: pictures and classes

_HOMES = {
    "keras": ("tensorflow", "lakefeed.bench.model_keras", "KerasTrainer"),
    "torch": ("torch", "lakefeed.bench.model_torch", "TorchTrainer"),
}


class Trainer(Protocol):
    """A model in training."""

    name: str
    device: str
    side: int

    def ready(self, pixels: NDArray[np.float32], labels: NDArray[np.int64]) -> Ready:
        """Return a batch as the framework wants it, where it wants it."""

    def step(self, batch: Ready) -> float:
        """Train on one batch; return its loss once it is known."""


def check(framework: str, device: str) -> None:
    """Raise Invalid where the framework is not installed or does not serve the device."""
    library = _HOMES[framework][0]
    if importlib.util.find_spec(library) is None:
        extra = "tf" if framework == "keras" else "torch"
        raise Invalid(framework, found=f"no {library}", hint=f"pip install 'lakefeed[{extra}]'")
    if (device, framework) in (("cuda", "keras"), ("tf-gpu", "torch")):
        raise Invalid(
            f"--device {device}",
            expected="torch on cuda, keras on tf-gpu, either on cpu",
            found=framework,
        )


def trainer(framework: str, model: str, device: str, seed: int) -> Trainer:
    """Return a trainer; a device that is not there falls back to the processor (`device` says).

    Invalid as `check` has it.
    """
    check(framework, device)
    _, module, name = _HOMES[framework]
    made: Trainer = getattr(importlib.import_module(module), name)(model, device, seed)
    return made
