"""Do tags and pins name snapshots that are whole? (I3)

Every tag and pin can be read, names a snapshot that the log reaches, and, for tags, every pack and
segment of that snapshot is still on the volume, as long as its commit says. Damaged refs matter
beyond themselves: garbage collection deletes nothing while it cannot read one.
"""

from __future__ import annotations

from collections.abc import Iterator

from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.format.commit import PackInfo, SegmentInfo, State
from lakefeed.lake import layout
from lakefeed.lake.findings import Collector
from lakefeed.lake.lake import Lake
from lakefeed.lake.refs import Pin, Tag

_HINT = "restore the file, or delete the tag"


def check_refs(lake: Lake, checked: State, found: Collector) -> None:
    """Check every tag and pin; the files of the snapshot `checked` need no second look."""
    seen = {*checked.packs, *checked.segments}
    try:
        lake.refs.check_there()
    except NotFound as error:
        found.add_error("ref", error, error.hint)
    tags, pins = _tags(lake, found), _pins(lake, found)
    head = lake.log.head().number  # behind the refs: they may name what was committed meanwhile
    for tag in tags:
        if tag.snapshot > head:
            found.add("ref", f"tag {tag.name!r}", f"a snapshot up to {head}", tag.snapshot,
                      "delete the tag or restore the log")  # fmt: skip
    _check_files(lake, [tag for tag in tags if tag.snapshot <= head], seen, found)
    for pin in pins:
        if pin.snapshot > head:
            found.add("ref", layout.pin_path(pin.id), f"a snapshot up to {head}", pin.snapshot,
                      "delete the pin or restore the log")  # fmt: skip


def _tags(lake: Lake, found: Collector) -> list[Tag]:
    tags = []
    for name in lake.refs.names():
        try:
            tags.append(lake.refs.read(name))
        except NotFound:
            continue  # deleted since it was listed
        except (Corrupt, Invalid) as error:
            found.add_error("ref", error, "tag the snapshot again with --move, or delete the tag")
    return tags


def _pins(lake: Lake, found: Collector) -> list[Pin]:
    pins = []
    for id_ in lake.refs.pin_ids():
        try:
            pins.append(lake.refs.read_pin(id_))
        except (Corrupt, Invalid) as error:
            found.add_error("ref", error, "delete the pin")
    return [pin for pin in pins if pin is not None]


def _check_files(lake: Lake, tags: list[Tag], seen: set[str], found: Collector) -> None:
    """Check that what tagged snapshots need is there; `seen` is what needs no look."""
    names: dict[int, str] = {}
    for tag in tags:
        names.setdefault(tag.snapshot, tag.name)
    for state in _states(lake, sorted(names), found):
        files: dict[str, PackInfo | SegmentInfo] = {**state.packs, **state.segments}
        for id_ in files.keys() - seen:
            seen.add(id_)
            _check_file(lake, id_, files[id_], names[state.number], found)


def _states(lake: Lake, numbers: list[int], found: Collector) -> Iterator[State]:
    """Yield the states after these commits; what hides one goes to `found`."""
    while numbers:
        done = 0
        try:
            for state in lake.log.states(numbers):
                yield state
                done += 1
        except (Corrupt, NotFound) as error:
            found.add_error("ref", error)
            done += 1
        numbers = numbers[done:]


def _check_file(
    lake: Lake, id_: str, info: PackInfo | SegmentInfo, tag: str, found: Collector
) -> None:
    """Check that a file is there, and as long as its commit says."""
    if isinstance(info, PackInfo):
        path, size = layout.pack_path(id_), info.sealed.bytes
    else:
        path, size = layout.segment_path(id_), info.bytes
    expected = f"a file of {size} bytes, which tag {tag!r} keeps"
    try:
        there = lake.volume.stat(path).size
    except NotFound:
        found.add("missing", path, expected, "none", _HINT)
        return
    if there != size:
        found.add("file", path, expected, f"{there} bytes", _HINT)
