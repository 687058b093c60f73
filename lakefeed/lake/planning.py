"""What a compaction takes on: a plan (`compaction`) of packs whose rows can be read.

A pack that is lost, cut or damaged in its index is left where it is and named, as is one that it
refers to: for the rows in it nobody could say which of them lie in the other. Everything else is
planned without them, so that one lost pack does not keep all others from being compacted for ever.

Reads the rows of the inputs; those of small packs, of which there may be very many, are still in
the catalogue when copying reads them again. Writes nothing. A volume that fails to answer is an
error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lakefeed.errors import Conflict, Corrupt, NotFound
from lakefeed.format.commit import PackInfo, State
from lakefeed.lake import layout
from lakefeed.lake.catalogue import Catalogue, pack_source
from lakefeed.lake.compaction import CompactionPlan
from lakefeed.lake.copying import Damage
from lakefeed.lake.findings import Progress
from lakefeed.lake.lake import Lake
from lakefeed.lake.scan import scan

Planner = Callable[[State], CompactionPlan]


@dataclass(frozen=True, slots=True)
class Readable:
    """A plan whose inputs can be read, and the packs that can not."""

    plan: CompactionPlan
    damages: tuple[Damage, ...]


def plan_readable(
    lake: Lake, catalogue: Catalogue, state: State, plan_of: Planner, progress: Progress
) -> Readable:
    """Return what to rewrite; Conflict when a pack is gone because others have replaced it.

    `progress` hears of each pack that is looked at, and may end it: there may be very many.
    """
    looked: set[str] = set()
    damages: list[Damage] = []
    left = dict(state.packs)
    while True:
        plan = plan_of(replace(state, packs=left))
        inputs = {pack.id for pack in plan.inputs}
        unknown = [info for info in _concerned(state, inputs) if info.sealed.id not in looked]
        found = []
        for number, info in enumerate(unknown):
            progress("planning", number, len(unknown))
            if damage := _damage(lake, catalogue, info):
                found.append(damage)
        if not found:
            return Readable(plan, tuple(damages))
        looked |= {info.sealed.id for info in unknown}
        damages += found
        for damage in found:
            for id_ in (damage.pack, *state.packs[damage.pack].sealed.refs):
                left.pop(id_, None)


def _concerned(state: State, inputs: set[str]) -> list[PackInfo]:
    """Return the inputs and the packs that refer to them: the rows of all are read."""
    return [
        info
        for id_, info in state.packs.items()
        if id_ in inputs or not inputs.isdisjoint(info.sealed.refs)
    ]


def _damage(lake: Lake, catalogue: Catalogue, info: PackInfo) -> Damage | None:
    """Return what is wrong with the file of a pack's rows, None where they can all be read."""
    id_ = info.sealed.id
    path = layout.pack_path(id_)
    try:
        for _ in scan(catalogue, [pack_source(info)], tombstones=True):
            continue
    except Corrupt as error:
        return Damage(path, id_, str(error.expected), str(error.found))
    except NotFound as error:
        if id_ not in lake.log.head().packs:
            raise Conflict(f"compaction of {lake.name}", expected="a snapshot that stays readable",
                           found="its files were replaced and collected") from error  # fmt: skip
        return Damage(path, id_, f"a file of {info.sealed.bytes} bytes", "none")
    return None
