"""What a lake must show, replayed from its log on a dictionary.

`Told` is the other side of the log: what each batch of each writer began to do, told before its
commit and found again by a token in it, and which batches were acknowledged or refused. `replayed`
then does the commits in their order. Every snapshot that is kept must show exactly that: each
path with its content, mode, attributes and version (I1, I4, I5, I7).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple
from unittest.mock import patch

from lakefeed import Lake
from lakefeed.errors import Corrupt, LakefeedError, VolumeFailed
from lakefeed.format.columns import ColumnsReader
from lakefeed.format.commit import Commit, State
from lakefeed.format.pack import PackSealed
from lakefeed.format.rows import Kind, Row, rows_from_table
from lakefeed.lake import layout
from lakefeed.lake.batch import Batch, Delete, Operation, Put, Sealed
from lakefeed.lake.committing import Committer
from lakefeed.lake.snapshot import Snapshot
from lakefeed.service.ingest import Ingest, Outcome
from lakefeed.service.taking import Taken
from lakefeed.transfer.importing import Importer
from lakefeed.volume.around import AroundVolume
from lakefeed.volume.base import Volume

TOKEN = "told"
# What is committed to another lake is not told.
AWAY = "away"


class Facts(NamedTuple):
    """What a snapshot shows of a path; `seq` is the commit that put it there."""

    kind: Kind
    size: int
    crc32c: int
    mode: int
    attrs: tuple[tuple[str, str], ...]
    seq: int


Model = dict[str, Facts]
Damage = tuple[int, int]
"""Size and checksum of a payload that is not what was written."""


def facts_of(row: Row, seq: int | None = None) -> Facts:
    """Return what a row shows, as of another commit if `seq` says so."""
    attrs = tuple(sorted((row.attrs or {}).items()))
    return Facts(row.kind, row.size, row.crc32c, row.mode, attrs, row.seq if seq is None else seq)


def shown(snapshot: Snapshot, damaged: Set[Damage] = frozenset()) -> Model:
    """Return everything a snapshot shows, having read every payload but the damaged ones."""
    found: Model = {}
    for table in snapshot.scan():
        rows = rows_from_table(table)
        holds = [row.kind in (Kind.FILE, Kind.SYMLINK) for row in rows]
        try:
            snapshot.read_rows(table.filter(holds))  # each is compared with its checksum
        except Corrupt:
            _read_each(snapshot, [row for row, held in zip(rows, holds, strict=True) if held],
                       damaged)  # fmt: skip
        found.update((row.path, facts_of(row)) for row in rows)
    return found


def _read_each(snapshot: Snapshot, rows: list[Row], damaged: Set[Damage]) -> None:
    for row in rows:
        try:
            snapshot.read_row(row)
        except Corrupt:
            if (row.size, row.crc32c) not in damaged:
                raise


@dataclass
class Told:
    """What batches were to do, by their tokens, and what became of them as far as was said."""

    begun: dict[str, dict[str, Operation]] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    taken: dict[str, dict[str, Facts]] = field(default_factory=dict)
    # What can be imported, and which of it is in each pack of an import.
    source: dict[str, Facts] = field(default_factory=dict)
    imported: dict[str, list[str]] = field(default_factory=dict)

    def apply(self, commit: Commit, model: Model) -> Model:
        """Return what the lake shows after a commit."""
        after = dict(model)
        after.update(
            {
                path: facts._replace(seq=commit.number)
                for path, facts in self.taken.get(commit.app.get("batch", ""), {}).items()
            }
        )
        packs = [self.imported.get(pack.id, []) for pack in commit.changes.add_packs]
        after.update({path: self._source_of(path, commit.number) for path in chain(*packs)})
        for path, operation in self.begun.get(commit.app.get(TOKEN, ""), {}).items():
            facts = _after(operation, path, model, commit.number)
            if facts is None:
                after.pop(path, None)
            else:
                after[path] = facts
        return after

    def _source_of(self, path: str, seq: int) -> Facts:
        if path not in self.source:
            return Facts(Kind.DIR, 0, 0, 0o755, (), seq)
        return self.source[path]._replace(seq=seq)


def _after(operation: Operation, path: str, model: Model, seq: int) -> Facts | None:
    match operation:
        case Put(payload, kind, _, mode, attrs):
            pairs = tuple(sorted((attrs or {}).items()))
            return Facts(kind, payload.size, payload.crc32c, mode, pairs, seq)
        case Delete(seen):
            assert seen is None or model[path].seq == seen, f"{path} went as another version"
            return None
        case Sealed(_, row):
            return facts_of(row, seq)
    now = model.get(operation.origin, facts_of(operation.row))
    if operation.meta is not None:
        pairs = tuple(sorted((operation.meta.attrs or {}).items()))
        now = now._replace(mode=operation.meta.mode, attrs=pairs)
    return now._replace(seq=seq)


@contextmanager
def telling(told: Told) -> Iterator[None]:
    """Have every writer tell what it does while the block runs, and the inbox what it takes in."""
    publish, count, commit = Committer.publish, Ingest._count, Importer._commit

    def tell(self: Committer, batch: Batch) -> State:
        if self._draft.operation == AWAY:
            return publish(self, batch)
        token = f"{len(told.begun)}"
        self._draft = replace(self._draft, app={**self._draft.app, TOKEN: token})
        told.begun[token] = dict(batch.operations)
        try:
            state = publish(self, batch)
        except LakefeedError as error:
            if not isinstance(error, VolumeFailed):
                told.refused[token] = str(error)
            raise
        told.acknowledged[token] = state.number
        return state

    def tell_taken(self: Ingest, one: Taken, outcome: Outcome) -> None:
        assert one.payload is not None
        facts = Facts(Kind.FILE, one.file.size, one.payload.crc32c, one.mode, (), 0)
        told.taken.setdefault(outcome.record.batch, {})[self._above + one.file.path] = facts
        count(self, one, outcome)

    def tell_imported(self: Importer, sealed: PackSealed) -> None:
        volume = self._lake.volume
        inner = volume.inner if isinstance(volume, AroundVolume) else volume
        told.imported[sealed.id] = _paths_in(inner, sealed.id)
        commit(self, sealed)

    with (
        patch.object(Committer, "publish", tell),
        patch.object(Ingest, "_count", tell_taken),
        patch.object(Importer, "_commit", tell_imported),
    ):
        yield


def _paths_in(volume: Volume, pack: str) -> list[str]:
    path = layout.pack_path(pack)
    with volume.open(path) as file:
        reader = ColumnsReader(file.read_at, file.size, path)
        found: list[str] = reader.read(0, len(reader.groups))["path"].to_pylist()
    return found


def replayed(lake: Lake, told: Told, base: Model, base_number: int) -> dict[int, Model]:
    """Return what each snapshot from `base_number` on must show, and check what was said of each.

    An acknowledged batch is in the log where it was said to be, a refused one is not, and none is
    there twice.
    """
    head = lake.log.head().number
    models, found = {base_number: base}, {}
    for number in range(base_number + 1, head + 1):
        commit = lake.log.read(number)
        models[number] = told.apply(commit, models[number - 1])
        token = commit.app.get(TOKEN)
        if token is not None:
            assert token not in found, f"commits {found[token]} and {number} are one batch"
            found[token] = number
    for token, number in told.acknowledged.items():
        assert found.get(token) == number, f"acknowledged as {number}, and not there"
    for token, error in told.refused.items():
        assert token not in found, f"refused ({error}), and commit {found[token]} all the same"
    return models


def check_shown(lake: Lake, models: dict[int, Model], damaged: Set[Damage]) -> None:
    """Compare all kept snapshots, by number and by tag, with what they must show."""
    head = lake.log.head()
    kept = {tag.name: tag.snapshot for tag in lake.refs.tags()}
    numbers = range(max(head.horizon, min(models)), head.number + 1)
    for at, number in [*kept.items(), *zip(numbers, numbers, strict=True)]:
        check_same(shown(lake.snapshot(at), damaged), models[number], f"snapshot {at} ({number})")


def check_same(found: Model, wanted: Model, where: str) -> None:
    """Compare what is shown with what must be, and name the paths that differ."""
    wrong = {path: (found.get(path), wanted.get(path))
             for path in {*found, *wanted} if found.get(path) != wanted.get(path)}  # fmt: skip
    assert not wrong, f"{where}: found and wanted {wrong}"
