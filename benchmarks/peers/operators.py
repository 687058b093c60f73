"""Let MosaicML Streaming be imported: it imports torchvision, which wants its native operators.

The torchvision of the package index is built for CUDA and cannot load them beside a CPU build of
torch. Its Python part asks for two of them by name when it is imported; declared, but without any
kernel, they are enough for Streaming, which reads bytes and calls neither.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def declare() -> None:
    """Declare what torchvision looks for, unless it brings it itself."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    try:
        torch.ops.load_library(str(Path(found.origin).parent / "_C.so"))
    except OSError:
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


# Kept: the declarations go with it.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
declare()
