"""Where a feed stands, as plain JSON under 200 bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

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
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, object]) -> Cursor:
        """Return the cursor that `state()` gave; Invalid for anything else."""
        try:
            cursor = cls(**state)  # type: ignore[arg-type]
        except TypeError:
            expected = ", ".join(field.name for field in fields(cls))
            raise Invalid("feed state", expected=expected, found=sorted(state)) from None
        numbers = (cursor.snapshot, cursor.seed, cursor.epoch, cursor.position)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise Invalid("feed state", expected="numbers from 0", found=dict(state))
        return cursor
