"""Checkpoints in a directory: weights and the JSON file that names them, the newest few of them.

The weights are written first under a name of their own, then the JSON file is published. A process
killed in between leaves the checkpoint before; what it left half-way is removed by the next save.
Both are named after the step, in 12 digits; whatever else lies in the directory is left alone.

Every rank calls Keras to write: variables that replicas hold together are read together. Only rank
0 keeps the files; the others wait for them when they go back to what they know to be saved.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lakefeed.errors import Corrupt, NotFound, from_os_error
from lakefeed.lake.placing import move_over, place_over
from lakefeed.volume.posix import PosixVolume

FORMAT = 1
_SUFFIX = ".position.json"
_WEIGHTS = ".weights.h5"
_DIGITS = 12
_STEP = "[0-9]" * _DIGITS  # as a glob: a user's best.weights.h5 is none of ours
_UNFINISHED = "unfinished-"
# All ranks save at the same step; rank 0 may take a minute to make big weights durable.
_PUBLISH_SECONDS = 300.0
_LOOK_SECONDS = 0.1

Document = dict[str, Any]


class Checkpoints:
    """The newest `keep` checkpoints of a directory."""

    def __init__(self, directory: str | os.PathLike[str], keep: int) -> None:
        self.directory = Path(directory)
        self._keep = keep

    def newest(self) -> Document | None:
        """Return the newest checkpoint, or None; Corrupt if it cannot be read."""
        positions = self._positions()
        if not positions:
            return None
        try:
            found = json.loads(positions[-1].read_bytes())
            whole = (
                found["format"] == FORMAT
                and isinstance(found["step"], int)
                and isinstance(found["epoch"], int)
                and isinstance(found["feed"], dict)
                and (self.directory / found["weights"]).is_file()
            )
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(positions[-1]) from error
        if not whole:
            raise _unreadable(positions[-1])
        return dict(found)

    def _positions(self) -> list[Path]:
        """Return the files that name weights, the newest last."""
        return sorted(self.directory.glob(f"{_STEP}{_SUFFIX}"))

    def save(self, write: Callable[[Path], object], facts: Document, rank: int) -> Document:
        """Have the weights written, and on rank 0 published together with `facts`, of which `step`
        names them; return the document that says so."""
        name = f"{facts['step']:0{_DIGITS}d}{_WEIGHTS}"
        document = {"format": FORMAT, **facts, "weights": name}
        self.directory.mkdir(parents=True, exist_ok=True)
        mine = f"{_UNFINISHED}{rank}-"
        for stale in self.directory.glob(f"{mine}*"):
            _discard(stale)
        with tempfile.TemporaryDirectory(
            prefix=mine, dir=self.directory, ignore_cleanup_errors=True
        ) as scratch:
            written = Path(scratch) / f"model{_WEIGHTS}"
            write(written)
            if rank == 0:
                self._publish(written, document)
        return document

    def _publish(self, written: Path, document: Document) -> None:
        """Make weights durable under a name of their own, then the JSON file that names them."""
        weights = str(document["weights"])
        volume = PosixVolume(self.directory)
        try:
            descriptor = os.open(written, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise from_os_error(error, str(written)) from error
        scratch = written.parent.name
        move_over(volume, f"{scratch}/{written.name}", weights)
        position = f"{weights.removesuffix(_WEIGHTS)}{_SUFFIX}"
        place_over(volume, json.dumps(document, indent=1).encode(), position,
                   lambda id_: f"{scratch}/{id_}")  # fmt: skip
        volume.sync_directory("")

    def tidy(self, world_size: int) -> None:
        """Remove all but the newest, positions first, and what crashes left half-way."""
        positions = self._positions()
        for path in positions[: -self._keep]:
            path.unlink(missing_ok=True)
        kept = {path.name.removesuffix(_SUFFIX) for path in positions[-self._keep :]}
        for path in self.directory.glob(f"{_STEP}{_WEIGHTS}"):
            if path.name.removesuffix(_WEIGHTS) not in kept:
                path.unlink(missing_ok=True)
        for path in self.directory.glob(f"{_UNFINISHED}*-*"):
            rank = path.name.split("-")[1]
            if rank.isdecimal() and int(rank) >= world_size:  # of a run with more ranks
                _discard(path)

    def weights(self, document: Document) -> Path:
        """Return the weights of a checkpoint once rank 0 has published them; NotFound when it does
        not. At once on rank 0, and wherever the directory was read."""
        weights = self.directory / str(document["weights"])
        until = time.monotonic() + _PUBLISH_SECONDS
        pause = threading.Event()
        while not weights.is_file():
            if time.monotonic() > until:
                raise NotFound(
                    f"checkpoint {weights}",
                    expected=f"rank 0 to publish it within {_PUBLISH_SECONDS:.0f} s",
                    found="no such file",
                    hint="let all ranks save at the same steps, into the same directory",
                )
            pause.wait(_LOOK_SECONDS)
        return weights


def _discard(directory: Path) -> None:
    """Remove what was left half-way, or leave it to the next save: training does not end for it.
    NFS keeps what another process has open."""
    shutil.rmtree(directory, ignore_errors=True)


def _unreadable(path: Path) -> Corrupt:
    return Corrupt(
        f"checkpoint {path}",
        expected=f"format {FORMAT} with its weights beside it",
        found="something else",
        hint="remove it to go on from the one before",
    )
