"""What reads the GPUs of a machine, whoever made them, and what it says of one at a moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reading:
    """One GPU, or one part of it (MIG), at one moment; None where hardware or driver do not say.

    `joules` counts from the driver's start. `own` tells that this process computes on it.
    """

    gpu: int
    busy: float | None = None
    sm: float | None = None
    watts: float | None = None
    joules: float | None = None
    own: bool = False


class Probe(Protocol):
    """Reads all GPUs."""

    @property
    def names(self) -> list[str]:
        """The GPUs by name, a `Reading.gpu` being a place in it; empty where there is none."""

    @property
    def why(self) -> str:
        """Why there is none, or why some are left out, or ""."""

    def read(self) -> list[Reading]:
        """Return one reading for each GPU."""

    def close(self) -> None:
        """Let go of the driver. Works twice."""


@dataclass(frozen=True, slots=True)
class NoProbe:
    """There is no GPU, or nothing to read it with."""

    why: str
    names: list[str] = field(default_factory=list)

    def read(self) -> list[Reading]:
        """Return nothing."""
        return []

    def close(self) -> None:
        """Nothing to let go of."""
