"""Where the next iteration of a dataset begins, known to all processes that hold the dataset.

A DataLoader's workers are forked, spawned, kept or made anew for each epoch, and nothing that a
worker writes into its copy of a dataset survives it. So the epoch to come is a number in shared
memory, one for each worker of each number of workers: a worker takes the number of its slot when an
iteration begins and leaves the next one there. Each slot belongs to one process at a time, so no
lock is needed, and the n-th iteration is the n-th epoch in every worker, however far one is ahead
of another. Slots of other numbers of workers hold still meanwhile; where one of them is further,
another loader has served those epochs, and all workers go on from there alike.

An iteration that is abandoned may end workers that had not begun it, so new workers do not rely on
their slots. Workers made together share a seed: the first to begin takes the furthest epoch of all
slots and leaves it beside its seed, and the others begin with the same one, however late. Whoever
seeds torch anew for each epoch gives the same seed to all that are ever made, so the numbers that
their parent gives its processes must be near each other, too.

A position within an epoch, set by the main process between two iterations, lies beside the slots
as JSON. It counts for the epoch it names and is out of date afterwards.

The memory is shared with a DataLoader's workers and nobody else. A process that was forked, or sent
the dataset, without being one (a rank) goes on in memory of its own: ranks that moved each other's
slots would serve different epochs. It begins with the epoch that was the next when it was forked or
sent, noted then, because its parent may be a rank too and begin that epoch first.

NumPy does all the counting: torch would start its threads for as many numbers, and in a child that
is forked then, whoever asks torch for them waits for ever.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import data

from lakefeed.errors import Invalid

# The slots of all numbers of workers up to here take half a mebibyte a table.
WORKERS_MAX = 256
# A cursor of one feed has under 200 bytes.
_STATE_BYTES_MAX = 4096
_NO_SEED = -1  # torch draws them from 0 on


@dataclass(frozen=True, slots=True)
class Turn:
    """Which of how many workers a process is; no worker at all is the first of one.

    `seed` is what torch drew for the workers that were made together, None: no worker. `first` is
    which of their parent's processes the first of them is, as far as this one can tell.
    """

    worker: int
    workers: int
    seed: int | None = None
    first: int = 0

    @classmethod
    def of_this_process(cls) -> Turn:
        """Return the turn of this worker of a DataLoader; (0, 1) elsewhere."""
        info = data.get_worker_info()
        if info is None:
            return cls(0, 1)
        if info.num_workers > WORKERS_MAX:
            raise Invalid("num_workers", expected=f"at most {WORKERS_MAX}", found=info.num_workers)
        # By default a process is named after how many its parent made before, "ForkProcess-3", or
        # "ForkProcess-2:3" where its parent is the second of another.
        number = re.split("[-:]", multiprocessing.current_process().name)[-1]
        first = int(number) - info.id if number.isdecimal() else 0
        return cls(info.id, info.num_workers, info.seed - info.id, first)


@dataclass(frozen=True, slots=True)
class _Noted:
    """The epoch to come, and the position as JSON, b"": none."""

    epoch: int
    position: bytes


class Standing:
    """The epochs to come of all workers, and perhaps a position in the next one."""

    def __init__(self) -> None:
        self._noted = _Noted(0, b"")
        self._take_noted()
        _ALL[id(self)] = self

    def _take_noted(self) -> None:
        """Go on from what was noted, in memory of this process's own."""
        slots = (WORKERS_MAX + 1, WORKERS_MAX)
        nothing, seeds = np.zeros(slots, np.int64), np.full(slots, _NO_SEED, np.int64)
        epochs = np.full(slots, self._noted.epoch, np.int64)
        position = _padded(self._noted.position)
        self._tables = [_shared(table) for table in (epochs, seeds, nothing, nothing, position)]
        self._owner = os.getpid()

    def own(self) -> None:
        """Go on alone if another process has made the tables and this is no worker of it."""
        if self._owner != os.getpid() and data.get_worker_info() is None:
            self._take_noted()

    def note(self) -> None:
        """Note what a process that is forked or sent this now goes on from, if it is no worker."""
        self.own()
        epochs, _, _, _, position = self._numbers()
        self._noted = _Noted(int(epochs.max()), position.tobytes().rstrip(b"\0"))

    def __getstate__(self) -> dict[str, Any]:
        self.note()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not all(table.is_shared() for table in self._tables):  # a copy, not sent to a process
            self._take_noted()
        _ALL[id(self)] = self

    def _numbers(self) -> list[NDArray[Any]]:
        """The epochs to come; of workers made together the seeds, the number of the first of them
        and the epoch that they begin with; the position."""
        return [table.numpy() for table in self._tables]

    def begin(self, turn: Turn) -> tuple[int, dict[str, Any] | None]:
        """Return the epoch that begins now and the state it begins from, None: at its start."""
        self.own()
        epochs, _, _, _, position = self._numbers()
        if turn.seed is not None and not self._made_with(turn)[turn.worker]:
            epoch = self._begin_anew(turn)
        else:
            others = np.delete(epochs, turn.workers, axis=0)
            epoch = max(int(epochs[turn.workers, turn.worker]), int(others.max()))
        self.begun(turn, epoch)
        text = position.tobytes().rstrip(b"\0")
        state: dict[str, Any] | None = json.loads(text) if text else None
        return epoch, state if state is not None and state["epoch"] == epoch else None

    def _begin_anew(self, turn: Turn) -> int:
        """Return the epoch that the workers made together with this one begin with.

        A worker leaves its first epoch before what shows that it is of these, and both before it
        moves its slot. So whoever finds none of these has looked at slots that none had moved.
        """
        epochs, seeds, makings, begins, _ = self._numbers()
        furthest = int(epochs.max())
        together = begins[turn.workers][self._made_with(turn)]
        epoch = int(together[0]) if len(together) else furthest
        begins[turn.workers, turn.worker] = epoch
        makings[turn.workers, turn.worker] = turn.first
        seeds[turn.workers, turn.worker] = turn.seed
        return epoch

    def _made_with(self, turn: Turn) -> NDArray[np.bool_]:
        """Tell which slots were last begun by a worker that was made together with this one.

        Their numbers follow each other, unless another thread makes processes at the same time.
        """
        _, seeds, makings, _, _ = self._numbers()
        apart = np.abs(makings[turn.workers] - turn.first)
        together: NDArray[np.bool_] = (seeds[turn.workers] == turn.seed) & (apart < turn.workers)
        return together

    def begun(self, turn: Turn, epoch: int) -> None:
        """Say that a worker serves an epoch: the next one follows it."""
        epochs = self._numbers()[0]
        epochs[turn.workers, turn.worker] = epoch + 1

    def set(self, epoch: int, state: Mapping[str, Any] | None = None) -> None:
        """Let the next iteration of every worker be this epoch, from a state if one is given."""
        text = b"" if state is None else json.dumps(dict(state)).encode()
        if len(text) > _STATE_BYTES_MAX:
            raise Invalid("feed state", expected=f"at most {_STATE_BYTES_MAX} bytes", found=text)
        self.own()
        epochs, seeds, _, _, position = self._numbers()
        position[:] = _padded(text)
        epochs[:] = epoch
        seeds[:] = _NO_SEED


def _padded(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(text.ljust(_STATE_BYTES_MAX, b"\0")), np.uint8)


def _shared(numbers: NDArray[Any]) -> torch.Tensor:
    """Return a copy of an array in shared memory; `share_memory_` would copy in torch's threads."""
    storage = torch.UntypedStorage._new_shared(numbers.nbytes)
    table: torch.Tensor = torch.from_numpy(numbers[:0]).new_empty(0).set_(storage)
    table = table.view(numbers.shape)
    table.numpy()[:] = numbers
    return table


# A copy of its references is one step to Python, while other threads make datasets.
_ALL: weakref.WeakValueDictionary[int, Standing] = weakref.WeakValueDictionary()


def _note_all() -> None:
    """Before a fork: let workers share what is this process's, not its parent's."""
    for reference in _ALL.valuerefs():
        standing = reference()
        if standing is not None:
            standing.note()


os.register_at_fork(before=_note_all)
