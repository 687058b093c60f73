"""A lake: one directory on a volume, opened.

`Lake.create` makes one, `Lake.open` opens one; both return at once and hold nothing but a few
cached index files. `snapshot()` gives immutable views, `writer()` changes the lake, the rest is
history and housekeeping. A lake object is safe for threads, and after a fork each process opens
what it needs itself. Sent to another process (a pickle) it is where it lies, and nothing open goes
along; a snapshot is its lake and its number then. Neither is held: that is what a pin is for.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from lakefeed.closing import Closing
from lakefeed.errors import (
    Conflict,
    Invalid,
    LakefeedError,
    NotFound,
    SnapshotExpired,
    VolumeFailed,
)
from lakefeed.format import envelope
from lakefeed.format.commit import Changes, Commit, State
from lakefeed.format.pack import PackSealed
from lakefeed.given import check
from lakefeed.lake import layout
from lakefeed.lake.batch import Batch
from lakefeed.lake.catalogue import ADDRESSES_BYTES, CACHE_BYTES, Catalogue, sources_of
from lakefeed.lake.committing import Committer, Publisher
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.leases import Leases
from lakefeed.lake.log import Draft, Log
from lakefeed.lake.lookup import locate
from lakefeed.lake.merging import merge_index
from lakefeed.lake.packing import discard_packs
from lakefeed.lake.pins import LIFETIME_SECONDS, Hold
from lakefeed.lake.placing import place_new
from lakefeed.lake.reader import Reader
from lakefeed.lake.refs import Pin, Refs, Tag
from lakefeed.lake.snapshot import Shared, Snapshot
from lakefeed.lake.writer import Writer, WriterOptions
from lakefeed.volume.base import Volume, read_file
from lakefeed.volume.posix import PosixVolume

COMMIT_PRIMITIVE = "link"
# How long writing a tag may take, volume hiccups included, before its snapshot is fair game.
_TAGGING_SECONDS = 3600.0
# More than any number of a commit has: a file's name holds twenty. Python reads up to 4,300.
_DIGITS_MAX = 100
_LOG_HINT = '"lakefeed log" lists the snapshots'

_logger = logging.getLogger(__name__)


class Lake(Closing):
    """An opened lake. Use it in a `with` block, or call `close`."""

    def __init__(self, volume: Volume) -> None:
        check("volume", volume, Volume, 'a Volume; Lake.open("/mnt/lake") takes a directory')
        self.volume = volume
        self.log = Log(volume)
        self.refs = Refs(volume)
        self.leases = Leases(volume, self.refs.server_time_ns)
        self._files = OpenFiles(volume)
        self.catalogue = Catalogue(self._files, CACHE_BYTES, ADDRESSES_BYTES)
        self._reader = Reader(self._files)
        self._shared = Shared(
            volume, self.catalogue, self._reader, self.log.head, self.snapshot, self.sent
        )

    # -- making and opening ----------------------------------------------------------------------

    @classmethod
    def create(cls, where: str | os.PathLike[str] | Volume) -> Lake:
        """Make an empty lake in a directory (made if missing) and return it opened.

        Conflict if there is a lake already, Invalid if the directory holds other files or lies in
        a lake, VolumeFailed if the volume lacks what a lake needs (hard links).
        """
        volume = _volume(where)
        volume.make_directory("")
        _refuse_inside(volume)
        _refuse_foreign(volume)
        for directory in layout.DIRECTORIES:
            volume.make_directory(directory)
        body = {"type": "lake", "id": layout.new_id(), "commit": COMMIT_PRIMITIVE}
        try:
            # The same call that every commit needs, so a volume without hard links fails here.
            place_new(volume, envelope.seal(body), layout.SUPERBLOCK)
        except Conflict as error:
            raise _exists(volume) from error
        for directory in (*layout.DIRECTORIES, ""):
            volume.sync_directory(directory)
        return cls(volume)

    @classmethod
    def open(cls, where: str | os.PathLike[str] | Volume) -> Lake:
        """Open a lake; NotFound if there is none, Invalid if it is of an unknown version."""
        volume = _volume(where)
        try:
            data = _read_superblock(volume)
        except NotFound as error:
            raise NotFound(
                f"lake {volume.name}", hint=f'create one with "lakefeed create {volume.name}"'
            ) from error
        except VolumeFailed as error:
            if error.errno != errno.ENOTDIR:
                raise
            hint = "name its directory; a federation is for ls, stat, find, cat, get, du and mount"
            raise NotFound(f"lake {volume.name}", expected="a directory", found="a file",
                           hint=hint) from error  # fmt: skip
        fields = envelope.unseal(data, "lake", f"{volume.name}/{layout.SUPERBLOCK}")
        if fields.text("commit") != COMMIT_PRIMITIVE:
            raise Invalid(
                f"lake {volume.name}",
                expected=f"commits by {COMMIT_PRIMITIVE}",
                found=fields.text("commit"),
                hint="upgrade lakefeed",
            )
        return cls(volume)

    @property
    def name(self) -> str:
        """Where the lake is."""
        return self.volume.name

    def read_id(self) -> str:
        """Return what tells this lake from all others, whatever directory it is in."""
        subject = f"{self.name}/{layout.SUPERBLOCK}"
        return envelope.unseal(_read_superblock(self.volume), "lake", subject).id("id")

    # -- reading ---------------------------------------------------------------------------------

    def snapshot(self, at: int | str | None = None, *, time_ns: int | None = None) -> Snapshot:
        """Return a view of the lake: the newest, a number, a tag, or what was there at a time.

        A string of digits is a number. NotFound for what never existed, SnapshotExpired for what
        garbage collection has given up.
        """
        check("snapshot", at, int | str | None, "a number, a tag or None")
        check("time_ns", time_ns, int | None)
        if time_ns is not None:
            at = self.log.before(time_ns)
        if at is None:
            return Snapshot(self._shared, self.log.head())
        kept = False
        if isinstance(at, str) and not at.isdecimal():
            at, kept = self.refs.read(at).snapshot, True
        head = self.log.head()
        if isinstance(at, str) and len(at) > _DIGITS_MAX:
            raise NotFound(f"snapshot {at[:_DIGITS_MAX]}… of {self.name}",
                           expected=f"at most {head.number}", hint=_LOG_HINT)  # fmt: skip
        number = int(at)
        if number > head.number:
            raise NotFound(f"snapshot {number} of {self.name}",
                           expected=f"at most {head.number}", hint=_LOG_HINT)  # fmt: skip
        if number < head.horizon and not kept and number not in self.kept():
            raise self._expired(number, head)
        return Snapshot(self._shared, self.log.at(number))

    def __reduce__(self) -> tuple[type[Lake], tuple[Volume]]:
        # Not `open`: a worker's process would end by what reading a pickle raises, not its task.
        return Lake, (self.volume,)

    def sent(self, number: int, commit_id: str | None) -> Snapshot:
        """Return a snapshot that another process sent; it is looked up when it is first used.

        SnapshotExpired then, where garbage collection has given it up or the lake was made anew.
        """

        def find() -> State:
            state = self.snapshot(number).state
            if state.commit_id != commit_id:
                raise SnapshotExpired(
                    f"snapshot {number} of {self.name}",
                    expected=f"the commit {commit_id}",
                    found=state.commit_id,
                    hint="the lake was made anew or restored; send its newest snapshot",
                )
            return state

        return Snapshot(self._shared, find)

    def kept(self) -> frozenset[int]:
        """Return the snapshots that tags and pins name, expired pins included."""
        return self.refs.kept()

    def history(self, newest: int | None = None) -> Iterator[Commit]:
        """Yield commits from the newest (or a number) back to the first."""
        return self.log.history(self.log.head().number if newest is None else newest)

    # -- changing --------------------------------------------------------------------------------

    def writer(
        self,
        options: WriterOptions | None = None,
        *,
        operation: str = "write",
        message: str | None = None,
        app: dict[str, str] | None = None,
    ) -> Writer:
        """Return a writer; `operation`, `message` and `app` are recorded with its commits."""
        check("options", options, WriterOptions | None)
        draft = Draft(operation, message, dict(app or {}))
        committer = Committer(self.volume, self.log, self._locate, draft)

        def publish(batch: Batch) -> Snapshot:
            return Snapshot(self._shared, committer.publish(batch))

        publisher = Publisher(self.volume, self.log, publish, self.snapshot, self._merge_quietly)
        return Writer(publisher, options or WriterOptions())

    def _locate(self, state: State, paths: list[str]) -> object:
        return locate(self.catalogue, sources_of(state), paths)

    def append(self, packs: Sequence[PackSealed], draft: Draft) -> Snapshot:
        """Commit packs that are complete and durable already; for importers.

        Where no commit was made for certain, the packs are gone again after the exception.
        """
        changes = Changes(add_packs=tuple(packs))

        def undo(_: BaseException) -> None:
            discard_packs(self.volume, self.log, packs)

        return Snapshot(self._shared, self.log.commit(draft, lambda _: changes, undo))

    def merge_index(self, *, everything: bool = False) -> Snapshot:
        """Merge the rows of new packs into segments; `everything` leaves one sorted run.

        Conflict when somebody else merged the same packs in the meantime.
        """
        state = merge_index(self.volume, self.log, self.catalogue, everything=everything)
        return Snapshot(self._shared, state)

    def _merge_quietly(self) -> None:
        try:
            self.merge_index()
        except Conflict:
            _logger.debug("another writer merged the same packs, which serves this one as well")
        except LakefeedError as error:
            # The commit before it stands; the next one tries the merge again.
            _logger.warning("no index merge of %s: %s", self.name, error)
        except Exception:
            # A wall: the thread that commits for the writer must survive whatever a merge meets.
            _logger.exception("an index merge of %s failed in a way nobody foresaw", self.name)

    # -- keeping snapshots -----------------------------------------------------------------------

    def tag(self, name: str, at: int | str | None = None, *, move: bool = False,
            message: str | None = None) -> Tag:  # fmt: skip
        """Name a snapshot (default: the newest) and so keep it; Conflict if the name is taken.

        SnapshotExpired when garbage collection gave the snapshot up in the meantime.
        """
        layout.check_tag(name)
        # The tag is written under a pin, so that it never names what is being deleted.
        pin = self.pin(at, holder=f"tag {name}", lifetime_seconds=_TAGGING_SECONDS)
        try:
            tag = Tag(name, pin.snapshot, message)
            self.refs.set(tag, move=move)
        finally:
            self.refs.unpin(pin)
        return tag

    def pin(self, at: int | str | None = None, *, holder: str, lifetime_seconds: float) -> Pin:
        """Keep a snapshot readable for a time; renew the pin or give it up with `refs.unpin`.

        SnapshotExpired when garbage collection gave the snapshot up in the meantime.
        """
        number = self.snapshot(at).number
        return self._claimed(Pin(layout.new_id(), number, holder, 0), lifetime_seconds)

    def hold(
        self,
        at: int | str | None = None,
        *,
        holder: str,
        lifetime_seconds: float = LIFETIME_SECONDS,
    ) -> Hold:
        """Keep a snapshot readable while a `with` block runs: a pin that a thread renews.

        SnapshotExpired when garbage collection gave the snapshot up in the meantime.
        """
        pin = self.pin(at, holder=holder, lifetime_seconds=lifetime_seconds)
        return Hold(self, pin, self.refs.unpin, lifetime_seconds)

    def renew(self, pin: Pin, lifetime_seconds: float) -> Pin:
        """Prolong a pin and return it; SnapshotExpired when it had expired and was too late."""
        renewed = self.refs.renew(pin, lifetime_seconds)
        now_ns = renewed.expires_ns - int(lifetime_seconds * 1e9)
        return renewed if now_ns < pin.expires_ns else self._claimed(renewed, lifetime_seconds)

    def _claimed(self, pin: Pin, lifetime_seconds: float) -> Pin:
        """Write a pin that collection has seen or will see and return it, else remove it again.

        Collection raises the horizon before it reads the refs for the last time. So a snapshot not
        below the horizon now, after the pin was written, is safe; one below it is safe only where a
        tag kept it all the time. To ask the tags costs some calls for each: only there is it done.
        """
        number = pin.snapshot
        below = number < self.log.head().horizon
        tagged = not below or self.refs.is_tagged(number)
        pin = self.refs.renew(pin, lifetime_seconds)
        confirmed = False
        try:
            head = self.log.head()
            confirmed = number >= head.horizon or (tagged and self.refs.is_tagged(number))
        finally:
            if not confirmed:
                self.refs.unpin(pin)
        if not confirmed:
            raise self._expired(number, head)
        return pin

    def _expired(self, number: int, head: State) -> SnapshotExpired:
        return SnapshotExpired(
            f"snapshot {number} of {self.name}",
            expected=f"{head.horizon} or newer",
            hint="tag the snapshots you need",
        )

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Close files and stop threads; writers must be closed before. Works twice."""
        self._reader.close()
        self._files.close()
        self.catalogue.clear()


def _volume(where: str | os.PathLike[str] | Volume) -> Volume:
    check("lake", where, str | os.PathLike[str] | Volume, "its directory, or a Volume")
    return PosixVolume(where) if isinstance(where, str | os.PathLike) else where


def _exists(volume: Volume) -> Conflict:
    hint = "open it, or choose another directory"
    return Conflict(f"lake {volume.name}", found="a lake already", hint=hint)


def _read_superblock(volume: Volume) -> bytes:
    try:
        return read_file(volume, layout.SUPERBLOCK)
    except NotFound:
        # On NFS this may be what a client remembers from before the lake was made.
        volume.refresh("")
        return read_file(volume, layout.SUPERBLOCK)


def check_outside(subject: str, where: str | os.PathLike[str]) -> None:
    """Raise Invalid where a place is a lake's directory, or lies in one: that is the lake's own."""
    place = PurePath(os.path.realpath(where))
    for lake in (place, *place.parents):
        if all(os.path.lexists(lake / name) for name in (layout.SUPERBLOCK, layout.LOG)):
            raise Invalid(f"{subject} {os.fspath(where)}", expected="a place outside of lakes",
                          found=f"one in the lake {lake}",
                          hint="choose another directory")  # fmt: skip


def _refuse_inside(volume: Volume) -> None:
    # `lakefeed://` finds the outermost lake. What is no directory has another kind of name.
    if os.path.isabs(volume.name):
        check_outside("lake in", os.path.dirname(os.path.realpath(volume.name)))


def _refuse_foreign(volume: Volume) -> None:
    names = {entry.name for entry in volume.list("")}
    ours = {*layout.DIRECTORIES, *layout.LATER_DIRECTORIES, "lost+found"}
    if layout.SUPERBLOCK in names:
        raise _exists(volume)
    # Hidden names are the filer's own (.snapshot), lost+found is ext4's.
    foreign = sorted(name for name in names - ours if not name.startswith("."))
    if foreign:
        raise Invalid(
            f"lake {volume.name}",
            expected="an empty directory",
            found=foreign[0],
            hint="choose another directory",
        )
