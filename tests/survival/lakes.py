"""Looking at a lake from outside: what it holds, and whether all of it hangs together.

`picture` reads everything of the newest snapshot. `audit` checks the rest: the chain of commits is
total, each state follows from the one before, checkpoints agree with the replay, packs and segments
are there with their recorded sizes, nothing stands in the log that is no commit, and `fsck --deep`
finds nothing. Both use a fresh `Lake`, as another process would.
"""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass

from lakefeed import Lake
from lakefeed.errors import NotFound
from lakefeed.format.commit import State, apply, decode_checkpoint
from lakefeed.format.rows import Kind, rows_from_table
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import Volume, read_file


@dataclass(frozen=True)
class Picture:
    """Everything a reader sees: files with their bytes, directories and tags."""

    files: dict[str, bytes]
    directories: frozenset[str]
    tags: dict[str, int]


def files_of(snapshot: Snapshot) -> dict[str, bytes]:
    """Return all files of a snapshot, read and verified."""
    found: dict[str, bytes] = {}
    for table in snapshot.scan():
        kinds = table["kind"].to_pylist()
        chosen = table.filter([kind in (Kind.FILE, Kind.SYMLINK) for kind in kinds])
        found.update(zip(chosen["path"].to_pylist(), snapshot.read_rows(chosen), strict=True))
    return found


def all_snapshots(where: Volume | os.PathLike[str]) -> dict[int, dict[str, bytes]]:
    """Return the files of every snapshot that is kept, by number."""
    with Lake.open(where) as lake:
        head = lake.log.head()
        numbers = range(max(head.horizon, 1), head.number + 1)
        return {number: files_of(lake.snapshot(number)) for number in numbers}


def raw_files(volume: Volume, directory: str = "") -> dict[str, bytes]:
    """Return every file on a volume, by its path there."""
    found: dict[str, bytes] = {}
    for entry in volume.list(directory):
        path = f"{directory}/{entry.name}".lstrip("/")
        if entry.is_directory:
            found.update(raw_files(volume, path))
        else:
            found[path] = read_file(volume, path)
    return found


def picture(volume: Volume | os.PathLike[str]) -> Picture:
    """Return what the newest snapshot and the tags show."""
    with Lake.open(volume) as lake:
        snapshot = lake.snapshot()
        rows = [row for table in snapshot.scan() for row in rows_from_table(table)]
        directories = frozenset(row.path for row in rows if row.kind is Kind.DIR)
        tags = {tag.name: tag.snapshot for tag in lake.refs.tags()}
        return Picture(files_of(snapshot), directories, tags)


def audit(where: Volume | os.PathLike[str], allowed: Set[str] = frozenset()) -> int:
    """Check history and files as described above; return the number of the newest snapshot.

    `allowed` are kinds of findings that are no fault of the lake's.
    """
    with Lake.open(where) as lake:
        head = lake.log.head()
        state = State()
        for number in range(1, head.number + 1):
            state = apply(state, lake.log.read(number))
            _check_checkpoint(lake, state)
        assert state == head
        _check_log_names(lake, head.number)
        _check_sizes(lake, head)
        report = check(lake, deep=True)
        findings = [one for one in report.findings if one.kind not in allowed]
        assert not findings, findings
        return head.number


def _check_checkpoint(lake: Lake, state: State) -> None:
    path = layout.checkpoint_path(state.number)
    try:
        data = read_file(lake.volume, path)
    except NotFound:
        return
    assert decode_checkpoint(data, path) == state


def _check_log_names(lake: Lake, head: int) -> None:
    for entry in lake.volume.list(layout.LOG):
        name = entry.name.replace(".checkpoint", ".json")
        number = layout.parse_commit(name)
        assert entry.name == "HEAD" or (number is not None and number <= head), entry.name


def _check_sizes(lake: Lake, state: State) -> None:
    for pack in state.packs.values():
        size = lake.volume.stat(layout.pack_path(pack.sealed.id)).size
        assert size == pack.sealed.bytes, pack
    for segment in state.segments.values():
        size = lake.volume.stat(layout.segment_path(segment.id)).size
        assert size == segment.bytes, segment
