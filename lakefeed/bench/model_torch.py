"""Real steps in PyTorch: the demo's CNN and ResNet-50 (He et al. 2015, stride in the 3x3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lakefeed.bench.models import CLASSES, SIDES, Ready


class TorchTrainer:
    """A model with SGD whose step returns when its loss is known."""

    def __init__(self, model: str, device: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.side = SIDES[model]
        self.device = "gpu" if device == "cuda" and torch.cuda.is_available() else "cpu"
        self._place = torch.device("cuda" if self.device == "gpu" else "cpu")
        self._model = _MODELS[model](self.side).to(self._place)
        self._loss = nn.CrossEntropyLoss()
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.01)
        self.name = f"PyTorch {model} on {self.device}"

    def ready(self, pixels: NDArray[np.float32], labels: NDArray[np.int64]) -> Ready:
        """Return a batch as tensors, in the device's memory."""
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        classes = torch.from_numpy(labels)
        if self.device == "cpu":
            return pictures, classes
        return pictures.pin_memory().to(self._place, non_blocking=True), classes.to(self._place)

    def step(self, batch: Ready) -> float:
        """Train on one batch; return its loss, which waits for the device."""
        pictures, classes = batch
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self._model(pictures), classes)
        loss.backward()
        self._optimizer.step()
        return float(loss.item())


def _cnn(side: int) -> Any:
    flat = 16 * ((side // 2 - 4) // 2) ** 2
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES),
    )  # fmt: skip


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, and a way around them."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out),
        )  # fmt: skip
        self.around: Any = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.around = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, values: Any) -> Any:
        """Return the block's output."""
        return torch.relu(self.body(values) + self.around(values))


def _resnet50(side: int) -> Any:
    blocks: list[Any] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    channels = 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for number in range(count):
            stride = 2 if number == 0 and width > 64 else 1
            blocks.append(Bottleneck(channels, width, stride))
            channels = 4 * width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*blocks, *head)


_MODELS = {"cnn": _cnn, "resnet50": _resnet50}
