"""Batches to a device: page-locked memory first, then copies on a stream of their own.

A copy from page-locked memory to a CUDA device runs beside the kernels of the training step if it
is issued on another stream. `Mover` issues it and remembers an event; `hand_over` lets the
consumer's current stream wait for that event, and tells the allocator who uses the tensors, so that
their memory is not given away while the step runs. The host's tensors are kept until their copy is
done: a leased buffer goes back to the feed's pool when its last tensor dies, and must not be filled
anew while the device still reads from it.

On any device other than CUDA a move is a plain `to`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lakefeed.adapters.torch.batch import Batch


@dataclass(frozen=True, slots=True)
class Moved:
    """What is on its way to a device; `done` is None when nothing needs to be waited for."""

    value: Any
    done: Any


class Mover:
    """Moves values to one device. `move` is called by one thread, `hand_over` by the consumer."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copying: deque[tuple[Any, Any]] = deque()

    def move(self, value: Any) -> Moved:
        """Start to copy a value's tensors and return at once."""
        if self._stream is None:
            return Moved(_each(value, lambda part: part.to(self._device)), None)
        host = pinned(value)
        with torch.cuda.stream(self._stream):
            there = _each(host, lambda part: part.to(self._device, non_blocking=True))
            done = self._stream.record_event()
        while self._copying and self._copying[0][1].query():
            self._copying.popleft()
        self._copying.append((host, done))
        return Moved(there, done)

    def hand_over(self, moved: Moved) -> Any:
        """Return the moved value, safe to use on the caller's current stream."""
        if moved.done is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(moved.done)
            _each(moved.value, lambda part: _used_on(part, current))
        return moved.value

    def close(self) -> None:
        """Wait for the copies that run, then let go of their memory. Works twice."""
        while self._copying:
            _, done = self._copying.popleft()
            done.synchronize()


def page_locked(size_bytes: int) -> Any:
    """Return a page-locked buffer, for a feed whose batches go to a GPU: `FeedOptions.allocate`."""
    return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True).numpy()


def pinned(value: Any) -> Any:
    """Return a value with its tensors in page-locked memory; those that are stay as they are."""
    return _each(value, _pin)


def _pin(part: Any) -> Any:
    if isinstance(part, torch.Tensor) and (part.is_pinned() or part.device.type != "cpu"):
        return part
    return part.pin_memory()


def _used_on(part: Any, stream: Any) -> Any:
    part.record_stream(stream)
    return part


def _each(value: Any, action: Any) -> Any:
    """Return a value with an action applied to the batches and tensors in it."""
    return pytree.tree_map(
        lambda part: action(part) if isinstance(part, torch.Tensor | Batch) else part,
        value,
        is_leaf=lambda part: isinstance(part, Batch),
    )
