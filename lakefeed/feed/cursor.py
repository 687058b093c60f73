"""Where a feed stands, as plain JSON under 200 bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lakefeed.errors import Invalid

State = dict[str, int | str | None]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a feed stands: samples of an epoch delivered, all ranks together.

    Everything that the order depends on is in it, so a cursor restored into a feed of another order
    or of other samples is refused.
    """

    snapshot: int
    selection: str
    shuffle: str | None
    seed: int
    epoch: int
    position: int

    def state(self) -> State:
        """Return the cursor as plain JSON values."""
        # `asdict` copies each value, at ten times the price, for every batch.
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, state: object) -> Cursor:
        """Return the cursor that `state()` gave; Invalid for anything else."""
        names = cls.__slots__
        if not isinstance(state, Mapping) or set(state) != set(names):
            raise Invalid(
                "feed state", expected=f"a mapping of {', '.join(names)}", found=repr(state)
            )
        cursor = cls(**state)
        for name in ("snapshot", "seed", "epoch", "position"):
            number, end = state[name], 1 << (64 if name == "seed" else 62)
            if type(number) is not int or not 0 <= number < end:
                raise Invalid(f"feed state's {name}", expected=f"a number from 0, below {end}",
                              found=repr(number))  # fmt: skip
        return cursor
