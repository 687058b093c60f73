"""Do tags and pins name snapshots that are whole? (I3)

Every tag and pin can be read, names a snapshot that the log reaches, and, for tags, every pack and
segment of that snapshot is still on the volume. Damaged refs matter beyond themselves: garbage
collection deletes nothing while it cannot read one.
"""

from __future__ import annotations

from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.format.commit import State
from lakefeed.lake import layout
from lakefeed.lake.findings import Collector
from lakefeed.lake.lake import Lake
from lakefeed.lake.refs import Tag


def check_refs(lake: Lake, checked: State, found: Collector) -> None:
    """Check every tag and pin; the files of the snapshot `checked` need no second look."""
    seen = {*checked.packs, *checked.segments}
    tags = _tags(lake, found)
    head = lake.log.head().number
    for tag in tags:
        if tag.snapshot > head:
            found.add("ref", f"tag {tag.name!r}", f"a snapshot up to {head}", tag.snapshot,
                      "delete the tag or restore the log")  # fmt: skip
        else:
            _check_files(lake, tag, seen, found)
    try:
        lake.refs.pins()
    except (Corrupt, Invalid) as error:
        found.add_error("ref", error, "delete the pin")


def _tags(lake: Lake, found: Collector) -> list[Tag]:
    tags = []
    for name in lake.refs.names():
        try:
            tags.append(lake.refs.read(name))
        except NotFound:
            continue  # deleted since it was listed
        except (Corrupt, Invalid) as error:
            found.add_error("ref", error, "tag the snapshot again, or delete the tag")
    return tags


def _check_files(lake: Lake, tag: Tag, seen: set[str], found: Collector) -> None:
    """Check that what the tagged snapshot needs is there; `seen` is what needs no look."""
    try:
        state = lake.log.at(tag.snapshot)
    except (Corrupt, NotFound) as error:
        found.add_error("ref", error)
        return
    paths = {id_: layout.pack_path(id_) for id_ in state.packs}
    paths.update({id_: layout.segment_path(id_) for id_ in state.segments})
    for id_ in paths.keys() - seen:
        seen.add(id_)
        try:
            lake.volume.stat(paths[id_])
        except NotFound:
            found.add("missing", paths[id_], f"a file that tag {tag.name!r} keeps", "none",
                      "restore the file, or delete the tag")  # fmt: skip
