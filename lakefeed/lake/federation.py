"""Several lakes, on one or many volumes, as one namespace.

    with Federation.open("/mnt/all.json") as all_lakes:
        snapshot = all_lakes.snapshot()
        snapshot.get("train/cat/1.jpg")         # from the lake mounted at "train"
        with all_lakes.writer() as writer:
            writer.put("cameras/line1/7.jpg", data)

Each lake keeps its own log, packs, index and compactor; here is only the table of mounts
(`mounts`). A lake is opened when something first asks for it, so one whose volume is sick is in
nobody's way but of those who want its files. What was found sick is tried again by the next
snapshot. Every call to a volume answers within `timeout_seconds`, or fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lakefeed.closing import Closing
from lakefeed.errors import Invalid, LakefeedError, NotFound
from lakefeed.forking import new_lock
from lakefeed.given import check
from lakefeed.lake.federated import FederatedSnapshot, Part
from lakefeed.lake.federated_writer import FederatedWriter
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount, Mounts, directory_of, load
from lakefeed.lake.once import Once
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.writer import Writer, WriterOptions
from lakefeed.volume.base import Volume
from lakefeed.volume.deadline import DeadlineVolume
from lakefeed.volume.posix import PosixVolume

# Longer than a healthy filer ever takes, short enough to go on without a sick one.
TIMEOUT_SECONDS = 60.0

VolumeAt = Callable[[str], Volume]


@dataclass(frozen=True, slots=True)
class Health:
    """How one lake of a federation is: its newest snapshot, or what is wrong with it."""

    mount: Mount
    snapshot: int | None = None
    rows: int | None = None
    bytes: int | None = None
    error: LakefeedError | None = None


class Member:
    """One mounted lake, opened on first need, and anew after it failed to open."""

    def __init__(self, mount: Mount, open_lake: Callable[[], Lake]) -> None:
        self.mount = mount
        self._open_lake = open_lake
        self._lock = new_lock()
        self._once = Once(open_lake)

    def lake(self) -> Lake:
        """Return the opened lake."""
        with self._lock:
            once = self._once
        try:
            return once.get()
        except Exception:
            with self._lock:
                if self._once is once:
                    self._once = Once(self._open_lake)
            raise

    def snapshot(self, at: str | None, time_ns: int | None) -> Snapshot:
        """Return a view of the lake; what the mount fixes comes first."""
        if self.mount.at is not None:
            return self.lake().snapshot(self.mount.at)
        return self.lake().snapshot(at, time_ns=time_ns)

    def close(self) -> None:
        """Close the lake if it was opened. Works twice."""
        with self._lock:
            once, self._once = self._once, Once(self._open_lake)
        lake = once.peek()
        if lake is not None:
            lake.close()


class Federation(Closing):
    """Opened lakes under one roof. Use it in a `with` block, or call `close`. Safe for threads."""

    def __init__(self, name: str, mounts: Mounts, home: str, volume_at: VolumeAt) -> None:
        self.name = name
        self.mounts = mounts
        self._home = home
        self._volume_at = volume_at

        def member(mount: Mount) -> Member:
            where = directory_of(mount, home)
            return Member(mount, lambda: Lake.open(volume_at(where)))

        self._members = {mount.prefix: member(mount) for mount in mounts.mounts}

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, timeout_seconds: float = TIMEOUT_SECONDS,
        volume_at: VolumeAt | None = None,
    ) -> Federation:  # fmt: skip
        """Open a federation file; touches none of its lakes.

        NotFound if there is no such file, Invalid if it is no federation. `volume_at` turns
        directories into volumes; by default each call to one fails after `timeout_seconds`.
        """
        check("federation", path, str | os.PathLike[str], "the path of its file")
        home, name = os.path.split(os.path.abspath(os.fspath(path)))
        at = volume_at or partial(_bounded, timeout_seconds)
        try:
            mounts = load(at(home), name)
        except NotFound as error:
            raise NotFound(f"federation {os.fspath(path)}",
                           hint='make one with "lakefeed federate"') from error  # fmt: skip
        return cls(os.path.join(home, name), mounts, home, at)

    def __reduce__(self) -> tuple[type[Federation], tuple[str, Mounts, str, VolumeAt]]:
        return Federation, (self.name, self.mounts, self._home, self._volume_at)

    def lake(self, path: str) -> Lake:
        """Return the opened lake that holds a path; NotFound where none is mounted."""
        return self._member(path).lake()

    def _member(self, path: str) -> Member:
        mount = self.mounts.of(path)
        if mount is None:
            raise NotFound(f"{path!r} in {self.name}", expected="a path below a mounted lake",
                           hint="mount a lake there")  # fmt: skip
        return self._members[mount.prefix]

    def snapshot(self, at: str | None = None, *, time_ns: int | None = None) -> FederatedSnapshot:
        """Return a view of all lakes: the newest of each, a tag that each has, or a time.

        Each lake's snapshot is taken when something first asks for it, and kept from then on.
        """
        if at is not None and at.isdecimal():
            raise Invalid(f"snapshot {at} of {self.name}", expected="a tag or a time",
                          found="a number, which each lake has of its own")  # fmt: skip

        def part(member: Member) -> Part:
            return Part(member.mount, Once(lambda: member.snapshot(at, time_ns)))

        return FederatedSnapshot(self.name, self.mounts, [part(m) for m in self._members.values()])

    def writer(
        self, options: WriterOptions | None = None, *, operation: str = "write",
        message: str | None = None, app: dict[str, str] | None = None,
    ) -> FederatedWriter:  # fmt: skip
        """Return a writer that sends each change to the lake it belongs to; see `Lake.writer`."""

        def writer_for(path: str) -> tuple[Mount, Lake]:
            member = self._member(path)
            if member.mount.at is not None:
                raise Invalid(f"write to {path!r}", expected="a live lake",
                              found=f"one fixed at {member.mount.at}")  # fmt: skip
            return member.mount, member.lake()

        def writer_of(lake: Lake) -> Writer:
            return lake.writer(options, operation=operation, message=message, app=app)

        return FederatedWriter(self.snapshot(), writer_for, writer_of)

    def health(self) -> list[Health]:
        """Ask every lake how it is, all at once; a sick one does not keep the others waiting."""
        snapshot = self.snapshot()
        snapshot.prepare()
        return [_health(part) for part in snapshot.parts]

    def close(self) -> None:
        """Close the lakes; writers must be closed before. Works twice."""
        for member in self._members.values():
            member.close()


def _bounded(timeout_seconds: float, where: str) -> Volume:
    return DeadlineVolume(PosixVolume(where), timeout_seconds)


def _health(part: Part) -> Health:
    try:
        snapshot = part.snapshot()
    except LakefeedError as error:
        return Health(part.mount, error=error)
    state = snapshot.state
    rows = sum(source.rows for source in snapshot.sources)
    size_bytes = sum(info.sealed.bytes for info in state.packs.values())
    return Health(part.mount, snapshot.number, rows, size_bytes)
