"""Whoever works on one lake at a time, each on a volume of its own: see `stepped`, `world`.

A seed decides who takes part, what each does, whose calls fail and who dies. An actor may end by
what the lake says of others (Conflict, SnapshotExpired), by a volume that failed, and by its death;
by nothing else: `acting` lets all other errors out.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from lakefeed import Lake, WriterOptions
from lakefeed.adapters.fsspec.local import store
from lakefeed.adapters.fsspec.moving import remove_copied
from lakefeed.cli.repair import _look
from lakefeed.errors import Conflict, Corrupt, Invalid, NotFound, SnapshotExpired, VolumeFailed
from lakefeed.format.checksum import crc32c
from lakefeed.format.pack import Meta
from lakefeed.format.rows import Codec, Kind, rows_from_table
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.federated_writer import FederatedWriter
from lakefeed.lake.federation import Federation
from lakefeed.lake.findings import silent
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.mounts import Mount, checked
from lakefeed.lake.repacking import CopyOptions
from lakefeed.lake.repair import rebuild_index
from lakefeed.lake.scrub import ScrubOptions, scrub
from lakefeed.lake.writer import Writer
from lakefeed.service.inbox import Inbox
from lakefeed.service.options import InboxOptions
from lakefeed.service.threads import Guard, Stopped
from lakefeed.transfer.importing import ImportOptions, import_tree
from lakefeed.volume.cached import BlockCache, CachedVolume
from lakefeed.volume.memory import MemoryVolume
from tests.service.tools import drop, run_once
from tests.survival.feeding import train
from tests.survival.keeping import check_named, hold_on, rot
from tests.survival.leaving import bring_out, copy_in, feed_on
from tests.survival.oracle import AWAY, Facts, shown
from tests.survival.world import DIRECTORIES, LONG_SECONDS, MANUAL, NAMES, ROUNDS, World

DROPPED = 6
# Of pins that expire under their reader, and of those that do not.
PIN_SECONDS = (10, LONG_SECONDS * 1000)
SOURCE = {f"{number % 2}/{number}": b"imported %d" % number * 50 for number in range(4)}


# -- writers ---------------------------------------------------------------------------------------


def write(here: World, actor: str) -> None:
    numbers = here.dice(actor)
    codec = numbers.choice((Codec.NONE, Codec.ZSTD))
    options = WriterOptions(flush_age_seconds=3600.0, merge_after=0, codec=codec, big_bytes=2000)
    with here.open(actor) as lake, lake.writer(options) as writer:
        for _ in range(ROUNDS):
            _fill(here, writer, numbers)
            _flush(writer)


def write_federated(here: World, actor: str) -> None:
    numbers = here.dice(actor)
    mounts = checked([Mount("here", "/here"), Mount("away", "/away")])
    away = MemoryVolume()
    Lake.create(away).close()
    volumes = {"/here": here.volumes[actor], "/away": away}
    with (
        Federation("all", mounts, "/", volumes.__getitem__) as lakes,
        lakes.writer(MANUAL) as writer,
    ):
        for _ in range(ROUNDS):
            _fill(here, writer, numbers, "here/")
            _flush(writer)


def _fill(
    here: World, writer: Writer | FederatedWriter, numbers: random.Random, above: str = ""
) -> None:
    """Do some steps of a batch; what the lake has no place for is left."""
    for step in range(numbers.randint(1, 4)):
        verb = numbers.choice(STEPS)
        data = f"{step} {numbers.random()}".encode() * 40
        names = [above + name for name in numbers.sample(NAMES, 2)]
        names += [above + name for name in numbers.sample(DIRECTORIES, 2)]
        try:
            verb(writer, names, data)
        except (NotFound, Invalid, VolumeFailed):
            continue
        except Corrupt:
            assert here.damaged


def _flush(writer: Writer | FederatedWriter) -> None:
    try:
        writer.flush()
    except (Conflict, VolumeFailed):
        return  # it did not happen, or nobody knows: `told` does


Step = Callable[[Writer | FederatedWriter, list[str], bytes], object]
STEPS: tuple[Step, ...] = (
    lambda writer, names, data: writer.put(names[0], data),
    lambda writer, names, data: writer.put(names[0], data, mode=0o600, attrs={"by": names[1]}),
    lambda writer, names, data: writer.put(names[0], b""),
    lambda writer, names, data: writer.put_file(names[0], io.BytesIO(data * 4), meta=Meta(1)),
    lambda writer, names, data: writer.symlink(names[0], names[1]),
    lambda writer, names, data: writer.rename(names[0], names[1]),
    lambda writer, names, data: writer.rename(names[1], names[0]),
    lambda writer, names, data: writer.copy(names[0], names[1]),
    lambda writer, names, data: writer.delete(names[0]),
    lambda writer, names, data: writer.mkdir(names[2]),
    lambda writer, names, data: writer.rename(names[2], names[3]),
    lambda writer, names, data: writer.copy_tree(names[2], names[3]),
    lambda writer, names, data: writer.delete_tree(names[2]),
    lambda writer, names, data: writer.get(names[0]),
)


def move_out(here: World, actor: str) -> None:
    """Move files to another lake, each under a name of its version, as `mv` does."""
    numbers = here.dice(actor)
    for _ in range(ROUNDS):
        with here.open(actor) as lake, here.open_away(actor) as away:
            chosen = numbers.sample(NAMES, 2)
            snapshot = lake.snapshot()
            found = snapshot.locate(chosen)
            rows = [row for row in rows_from_table(found.filter(found["path"].is_valid()))
                    if row.kind is Kind.FILE]  # fmt: skip
            try:
                with away.writer(MANUAL, operation=AWAY) as writer:
                    for row in rows:
                        store(writer, f"{row.path}.{row.seq}", (snapshot, row), row.mtime_ns)
            except Corrupt:
                assert here.damaged
                continue
            _unless_others(partial(remove_copied, lake, rows))


def take_in(here: World, actor: str) -> None:
    """Be one of two replicas that take in the same inbox."""
    for _ in range(ROUNDS):
        with here.open(actor) as lake:
            take_once(here, lake)


def take_once(here: World, lake: Lake) -> None:
    root = here.home / "inbox"
    options = InboxOptions(str(root), "in", quiet_seconds=0.0, threads=1, pack_files=2,
                           keep=here.keeps)  # fmt: skip
    guard = Guard()
    guard.allow(True)
    run_once(Inbox(lake, options, guard, lambda outcome: None))


def fill_inbox(here: World) -> None:
    """Drop the files that the replicas find."""
    (here.home / "inbox").mkdir(parents=True)
    for number in range(DROPPED):
        drop(here.home / "inbox", f"{number % 2}/{number}", b"dropped %d" % number)


def bring_in(here: World, actor: str) -> None:
    """Import a directory; what this leaves out, the last import brings."""
    with here.open(actor) as lake:
        import_once(here, lake)


def import_once(here: World, lake: Lake) -> None:
    """Import what the lake does not have yet, two files a commit."""
    options = ImportOptions("im", pack_rows=2, commit_seconds=3600.0)
    assert not import_tree(lake, here.home / "source", options).problems


def fill_source(here: World) -> None:
    """Make the directory that is imported."""
    for name, data in SOURCE.items():
        path = here.home / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o640)
        here.told.source[f"im/{name}"] = Facts(Kind.FILE, len(data), crc32c(data), 0o640, (), 0)


def clear(here: World, actor: str) -> None:
    """Delete what came through the inbox, which must not come again, and other files; then merge
    all, so that not even a tombstone is left of them."""
    numbers = here.dice(actor)
    for _ in range(ROUNDS):
        with here.open(actor) as lake, lake.writer(MANUAL) as writer:
            snapshot = lake.snapshot()
            made = snapshot.directories(["in/0", "im/0"])
            rows = [row for above in made for row in snapshot.ls(above)]
            for name in (*(row.path for row in rows), *numbers.sample(NAMES, 2)):
                if numbers.random() < 0.5:
                    with suppress(NotFound):
                        writer.delete(name)
            _flush(writer)
            _unless_others(lambda: lake.merge_index(everything=True))


# -- maintenance -----------------------------------------------------------------------------------


def merge(here: World, actor: str) -> None:
    numbers = here.dice(actor)
    with here.open(actor) as lake:
        for _ in range(ROUNDS):
            _unless_others(lambda: lake.merge_index(everything=numbers.random() < 0.4))


def rewrite(here: World, actor: str) -> None:
    numbers = here.dice(actor)
    with here.open(actor) as lake:
        for _ in range(ROUNDS):
            options = CompactionOptions(
                target_bytes=numbers.choice((1, 1000, 1 << 20)),
                live_ratio=numbers.choice((0.2, 0.8)),
            )
            layout_ = "path" if numbers.random() < 0.5 else "shuffled"
            how = CopyOptions(makes_way=False, layout=layout_, seed=numbers.randrange(9))
            _unless_others(partial(compact, lake, options, how))


def sweep(here: World, actor: str) -> None:
    numbers = here.dice(actor)
    with here.open(actor) as lake:
        for _ in range(ROUNDS):
            keep_seconds = numbers.choice((0.0, 0.0, 10.0, 200.0))
            retention = Retention(keep_seconds, here.grace_seconds, numbers.choice((1, 1, 3)))
            orphans = numbers.random() < 0.5
            _unless_others(partial(collect, lake, retention, orphans=orphans))


def repair(here: World, actor: str) -> None:
    """Look for what can be mended, which is nothing, and rebuild the index all the same."""
    numbers = here.dice(actor)
    with here.open(actor) as lake:
        for _ in range(2):
            found = _look(here.volumes[actor], silent, without_lost=numbers.random() < 0.5)
            assert (found.log, found.head, found.index, found.checkpoints) == (
                False, None, False, (),
            ), found  # fmt: skip
            if numbers.random() < 0.7:
                _unless_others(lambda: rebuild_index(lake))


def verify_payloads(here: World, actor: str) -> None:
    numbers = here.dice(actor)
    with here.open(actor) as lake:
        for _ in range(2):
            done = scrub(lake, ScrubOptions(restart=numbers.random() < 0.3))
            check_named(here, done)


def look_at_all(here: World, actor: str) -> None:
    with here.open(actor) as lake:
        for _ in range(2):
            findings = check(lake, deep=True).findings
            assert {finding.kind for finding in findings} <= here.findings, findings


def _unless_others(work: Callable[[], object]) -> None:
    """Do it, unless somebody else was first."""
    try:
        work()
    except Conflict:
        return


# -- readers ---------------------------------------------------------------------------------------


def read_pinned(here: World, actor: str) -> None:
    """Pin snapshots and read them twice, the second time through a node's cache."""
    numbers = here.dice(actor)
    blocks = BlockCache(here.home / "cache", 16 << 20, 1 << 20, crc32c)
    cached = CachedVolume(here.volumes[actor], blocks, layout.is_pack)
    with here.open(actor) as lake:
        for _ in range(ROUNDS):
            # The older a snapshot, the likelier that it is being given up right now.
            number = numbers.randint(here.base_number, lake.snapshot().number)
            lasts = numbers.random() < 0.7
            pinned = False
            try:
                pin = lake.pin(number, holder=actor, lifetime_seconds=PIN_SECONDS[lasts])
                pinned = lasts
                first = shown(lake.snapshot(number), here.damaged)
                with Lake.open(cached) as fresh:
                    assert shown(fresh.snapshot(number), here.damaged) == first, f"pinned {number}"
            except SnapshotExpired:
                assert not pinned, f"pinned {number}"
                continue
            lake.refs.unpin(pin)
        assert shown(lake.snapshot("kept"), here.damaged) == here.base


def read_unpinned(here: World, actor: str) -> None:
    with here.open(actor) as lake:
        for _ in range(ROUNDS):
            snapshot = lake.snapshot()
            try:
                assert shown(snapshot, here.damaged) == shown(snapshot, here.damaged)
            except SnapshotExpired:
                assert snapshot.number < lake.log.head().horizon


def move_tag(here: World, actor: str) -> None:
    numbers = here.dice(actor)
    with here.open(actor) as lake:
        for round_ in range(2 * ROUNDS):
            number = numbers.randint(here.base_number, lake.snapshot().number)
            name = numbers.choice(("moving", f"tag-{round_}"))
            try:
                with _in_doubt(here, name):
                    lake.tag(name, number, move=name == "moving")
                    here.tagged[name] = number
            except SnapshotExpired:
                continue
            if name in here.in_doubt:
                continue
            shown(lake.snapshot(name), here.damaged)
            if numbers.random() < 0.3:
                with _in_doubt(here, name):
                    lake.refs.delete(name)
                    here.tagged[name] = None


@contextmanager
def _in_doubt(here: World, name: str) -> Iterator[None]:
    """Nobody knows what became of a tag whose change fails, or is the last thing somebody does."""
    here.in_doubt.add(name)
    with suppress(VolumeFailed):
        try:
            yield
        except SnapshotExpired:
            here.in_doubt.discard(name)
            raise
        here.in_doubt.discard(name)


# -- all of them -----------------------------------------------------------------------------------

Act = Callable[[World, str], None]
ACTORS: dict[str, Act] = {
    "writer 1": write,
    "writer 2": write,
    "writer 3": write,
    "federated": write_federated,
    "mv": move_out,
    "cp": copy_in,
    "replica 1": take_in,
    "replica 2": take_in,
    "import": bring_in,
    "cleaner": clear,
    "merge 1": merge,
    "merge 2": merge,
    "compaction 1": rewrite,
    "compaction 2": rewrite,
    "gc 1": sweep,
    "gc 2": sweep,
    "repair": repair,
    "scrub": verify_payloads,
    "fsck": look_at_all,
    "pinned": read_pinned,
    "unpinned": read_unpinned,
    "tags": move_tag,
    "export": bring_out,
    "feed": feed_on,
    "training": train,
    "holder": hold_on,
    "rot": rot,
}


def acting(here: World, actor: str) -> None:
    """Be an actor until its work is done, its volume fails, or it is dead."""
    try:
        ACTORS[actor](here, actor)
    except (Conflict, SnapshotExpired, Stopped):
        return
    except VolumeFailed:
        if not here.is_faulty:
            raise
    except BaseException:
        # Whatever its end looks like from inside.
        if not here.volumes[actor].is_dead:
            raise
