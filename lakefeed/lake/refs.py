"""Tags and pins: small files that keep a snapshot.

A tag names a snapshot for people; a pin keeps one for a running reader and expires unless renewed.
Both are files of their own, so keeping a snapshot never touches a published file. Creating is
`link(2)` (fails if the name is taken), moving is rename-over, which readers survive by retrying.
Keeps I3 together with garbage collection.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite

from lakefeed.errors import Conflict, Corrupt, Invalid, NotFound, VolumeFailed
from lakefeed.format import envelope
from lakefeed.lake import layout
from lakefeed.lake.log import look_at_log
from lakefeed.lake.placing import discard_tmp, place_new, place_over
from lakefeed.volume.base import Volume, read_file

# Numbers in small files are of at least zero and fit in 63 bits.
EXPIRIES_NS = range(1 << 63)

# Readers may have no right to write, and a volume no room for it.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Tag:
    """A name for a snapshot."""

    name: str
    snapshot: int
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """A reader's claim on a snapshot until `expires_ns` (file server's clock)."""

    id: str
    snapshot: int
    holder: str
    expires_ns: int


def expiry_ns(now_ns: int, lifetime_seconds: float) -> int:
    """Return when something ends that lasts so long from now; Invalid if no file can say so."""
    if isfinite(lifetime_seconds):
        expires_ns = now_ns + int(lifetime_seconds * 1e9)
        if expires_ns in EXPIRIES_NS:
            return expires_ns
    raise Invalid("lifetime", expected="seconds that end between 1970 and 2262",
                  found=lifetime_seconds, hint="tag a snapshot to keep it for good")  # fmt: skip


class Refs:
    """The tags and pins of one lake."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def read(self, name: str) -> Tag:
        """Return a tag; NotFound if there is none of that name."""
        path = layout.ref_path(name)
        # Opening a file revalidates the file, not its name: another client may have moved the tag.
        try:
            self._volume.refresh(layout.REFS)
            data = read_file(self._volume, path)
        except NotFound as error:
            hint = f'"lakefeed tag {self._volume.name}" lists the tags'
            raise NotFound(f"tag {name!r} of {self._volume.name}", hint=hint) from error
        fields = envelope.unseal(data, "tag", path)
        return Tag(name, fields.number("snapshot"), fields.optional_text("message"))

    def tags(self) -> list[Tag]:
        """Return all tags, sorted by name."""
        return [tag for name in self.names() if (tag := self._read_if_there(name)) is not None]

    def names(self) -> list[str]:
        """Return the names of all tags, sorted; other files beside them are left alone."""
        return sorted(name for name in self._names(layout.REFS) if layout.is_tag(name))

    def _read_if_there(self, name: str) -> Tag | None:
        try:
            return self.read(name)
        except NotFound:
            return None

    def check_there(self) -> None:
        """Raise NotFound where all tags or all pins may have been lost with their directory, or the
        lake went away."""
        look_at_log(self._volume)
        for directory, what in ((layout.REFS, "tags"), (layout.PINS, "pins")):
            try:
                self._volume.refresh(directory)
            except NotFound as error:
                hint = f"restore it, or make it where there were no {what}"
                raise NotFound(f"{self._volume.name}/{directory}", hint=hint) from error

    def _names(self, directory: str) -> Iterator[str]:
        try:
            self._volume.refresh(directory)
        except NotFound:
            return  # a copy that leaves out what is empty; who places something makes it
        for entry in self._volume.list(directory):
            name = layout.parse_json(entry.name)
            if name is not None:
                yield name

    def is_tagged(self, snapshot: int) -> bool:
        """Tell whether a tag names a snapshot; what a damaged one names is not known."""
        return any(self._reads(name, snapshot) for name in self.names())

    def _reads(self, name: str, snapshot: int) -> bool:
        try:
            return self.read(name).snapshot == snapshot
        except (NotFound, Corrupt):
            return False

    def set(self, tag: Tag, *, move: bool = False) -> None:
        """Create a tag; Conflict if it exists, unless `move` says to point it elsewhere."""
        if tag.message is not None:
            envelope.check_text(f"message of tag {tag.name!r}", tag.message)
        body = {"type": "tag", "snapshot": tag.snapshot, "message": tag.message}
        self._place(envelope.seal(body), layout.ref_path(tag.name), f"tag {tag.name!r}", move)

    def delete(self, name: str) -> Tag | None:
        """Remove a tag and return it, None for a damaged one; NotFound if there is none."""
        tag: Tag | None = None
        with suppress(Corrupt):
            tag = self.read(name)
        # It was there, so "no such file" is the answer to a removal that was sent twice.
        with suppress(NotFound):
            self._volume.unlink(layout.ref_path(name))
        self._volume.sync_directory(layout.REFS)
        return tag

    def pin(self, snapshot: int, holder: str, lifetime_seconds: float) -> Pin:
        """Claim a snapshot for a reader."""
        return self.renew(Pin(layout.new_id(), snapshot, holder, 0), lifetime_seconds)

    def renew(self, pin: Pin, lifetime_seconds: float) -> Pin:
        """Write a pin with a new time of expiry and return it."""
        envelope.check_text(f"holder of a pin of snapshot {pin.snapshot}", pin.holder)
        expires = expiry_ns(self.server_time_ns(), lifetime_seconds)
        body = {"type": "pin", "snapshot": pin.snapshot, "holder": pin.holder}
        data = envelope.seal({**body, "expires_ns": expires})
        self._place(data, layout.pin_path(pin.id), f"pin {pin.id}", move=True)
        return Pin(pin.id, pin.snapshot, pin.holder, expires)

    def unpin(self, pin: Pin) -> None:
        """Give a claim up; one that is gone already is fine."""
        try:
            self._volume.unlink(layout.pin_path(pin.id))
        except NotFound:
            return

    def pins(self) -> list[Pin]:
        """Return all pins, expired ones included."""
        return [pin for id_ in self.pin_ids() if (pin := self.read_pin(id_)) is not None]

    def pin_ids(self) -> Iterator[str]:
        """Yield the ids of all pins; other files beside them are left alone."""
        return (name for name in self._names(layout.PINS) if envelope.is_id(name))

    def read_pin(self, id_: str) -> Pin | None:
        """Return a pin, None where it is gone."""
        path = layout.pin_path(id_)
        try:
            fields = envelope.unseal(read_file(self._volume, path), "pin", path)
        except NotFound:
            return None
        numbers = fields.number("snapshot"), fields.number("expires_ns")
        return Pin(id_, numbers[0], fields.text("holder"), numbers[1])

    def kept(self) -> frozenset[int]:
        """Return the snapshots that tags and pins name, expired pins included; what a damaged one
        names is not known."""
        found: list[Pin | Tag | None] = []
        # Tags after pins: a tag is written before the pin that protected its making goes.
        for id_ in self.pin_ids():
            with suppress(Corrupt):
                found.append(self.read_pin(id_))
        for name in self.names():
            with suppress(Corrupt):
                found.append(self._read_if_there(name))
        return frozenset(one.snapshot for one in found if one is not None)

    def server_time_ns(self) -> int:
        """Return the file server's time: the mtime of a file made for the purpose.

        NotFound where the lake went away: its directories would be made anew.
        """
        look_at_log(self._volume)
        path = layout.tmp_path(layout.new_id())
        try:
            with self._volume.create(path) as file:
                return file.stat().mtime_ns
        finally:
            discard_tmp(self._volume, path)

    def about_now_ns(self) -> int:
        """Return the file server's time, or this machine's where nothing can be made there.

        For who only looks; what is deleted or promised by the time is so by the server's alone.
        """
        try:
            return self.server_time_ns()
        except VolumeFailed as error:
            if error.errno not in _REFUSALS:
                raise
            return time.time_ns()

    def _place(self, data: bytes, path: str, what: str, move: bool) -> None:
        directory = path.rpartition("/")[0]
        self._volume.make_directory(directory)
        if move:
            place_over(self._volume, data, path)
        else:
            try:
                place_new(self._volume, data, path)
            except Conflict as error:
                raise Conflict(what, expected="a new name", found="it exists",
                               hint="use --move to point it elsewhere") from error  # fmt: skip
        self._volume.sync_directory(directory)
