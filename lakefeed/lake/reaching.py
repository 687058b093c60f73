"""Which files of the lake still read a payload: who is hurt if it is damaged.

A payload is reached by the newest snapshot and by those that tags and pins name; a snapshot that is
only young counts for nothing, because nobody has said that it is needed. It is reached under the
path that its pack has for it, or under another one: copies and renames move no bytes, and a pack
whose rows point elsewhere names these packs. What cannot be read is taken for reached.

Reads rows only: the pack's own, and of others only where the path itself no longer shows the
payload. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from lakefeed.errors import Corrupt, Invalid, NotFound, VolumeFailed
from lakefeed.format.commit import PackInfo, State
from lakefeed.format.rows import Kind
from lakefeed.lake.catalogue import Catalogue, Source, pack_source, sources_of
from lakefeed.lake.lake import Lake
from lakefeed.lake.lookup import locate
from lakefeed.lake.scan import scan

_PAYLOADS = (Kind.FILE, Kind.SYMLINK)

# Where a payload lies in its pack; an empty one lies where the next begins.
_Extent = tuple[int, int]


def reaching(lake: Lake, head: State, pack: str, paths: Sequence[str]) -> dict[str, str]:
    """Return those of a pack's paths whose payload is reached, each with the path that reaches it:
    itself, or else the first other one. A path that the pack has no payload of reaches itself."""
    info = head.packs[pack]
    everything = {path: path for path in paths}
    try:
        own = _extents(lake.catalogue, [pack_source(info)], pack, sorted(everything))
        found = {path: path for path in paths if path not in own}
        for state in _kept(lake, head, info):
            left = {path: extent for path, extent in own.items() if path not in found}
            if not left:
                break
            found |= _reached(lake.catalogue, state, pack, left)
    except (Corrupt, Invalid, NotFound, VolumeFailed):
        # A disk that damages one payload often cannot read the next: what is known is still told.
        return everything
    return found


def _kept(lake: Lake, head: State, info: PackInfo) -> Iterator[State]:
    """Yield the newest state, and those behind tags and pins that may have the pack."""
    yield head
    numbers = [number for number in lake.refs.kept() if info.seq <= number < head.number]
    yield from lake.log.states(numbers)


def _reached(
    catalogue: Catalogue, state: State, pack: str, wanted: dict[str, _Extent]
) -> dict[str, str]:
    if pack not in state.packs:
        return {}
    sources = sources_of(state)
    shown = _extents(catalogue, sources, pack, sorted(wanted))
    found = {path: path for path, extent in wanted.items() if shown.get(path) == extent}
    extents = {extent for path, extent in wanted.items() if path not in found}
    others: dict[_Extent, str] = {}
    if extents:
        paths = sorted(set(_pointing(catalogue, state, pack, extents)))
        for path, extent in sorted(_extents(catalogue, sources, pack, paths).items()):
            others.setdefault(extent, path)
    for path, extent in wanted.items():
        if path not in found and extent in others:
            found[path] = others[extent]
    return found


def _pointing(
    catalogue: Catalogue, state: State, pack: str, extents: set[_Extent]
) -> Iterator[str]:
    """Yield the paths whose rows in other packs point at these extents, shown or not."""
    infos = [info for info in state.packs.values() if pack in info.sealed.refs]
    for info in infos:
        for table in scan(catalogue, [pack_source(info)]):
            for path, extent in _of(table, pack):
                if extent in extents:
                    yield path


def _extents(
    catalogue: Catalogue, sources: list[Source], pack: str, paths: list[str]
) -> dict[str, _Extent]:
    """Return where those of some paths whose payload lies in a pack have it, by these sources."""
    return dict(_of(locate(catalogue, sources, paths), pack))


def _of(table: pa.Table, pack: str) -> Iterator[tuple[str, _Extent]]:
    """Yield path and extent of the rows whose payload lies in a pack."""
    names = ("path", "kind", "pack", "offset", "length")
    columns = (table[name].to_pylist() for name in names)
    for path, kind, where, offset, length in zip(*columns, strict=True):
        if where == pack and kind in _PAYLOADS:
            yield path, (offset, length)
