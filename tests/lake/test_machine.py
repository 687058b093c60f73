"""A lake under random operations equals a dictionary per snapshot, and fsck finds nothing.

The rules write, overwrite, delete, rename, commit, tag, merge, compact, collect and reopen, on few
names that collide and sort badly ("a!" before "a/" before "a0"). After each, the head and every
tagged snapshot hold exactly what the model holds, the writer reads its own writes, and fsck is
clean. Row groups hold three rows and segments about five, so that their boundaries are everywhere.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lakefeed.errors import Invalid, NotFound, SnapshotExpired
from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.repacking import CopyOptions, Layout
from lakefeed.lake.writer import Writer
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import QUIET, children_of, contents, small_groups

NAMES = st.sampled_from(["a", "b", "a!", "a0", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
DATA = st.binary(max_size=40) | st.integers(4090, 4100).map(bytes)
TAGS = st.sampled_from(["one", "two", "three"])
AT_ONCE = Retention(keep_seconds=0, grace_seconds=0)


class LakeMachine(RuleBasedStateMachine):
    """The lake on the left, dictionaries on the right."""

    snapshots = Bundle("numbers")

    def __init__(self) -> None:
        super().__init__()
        self.volume = MemoryVolume()
        self.lake = Lake.create(self.volume)
        self.writer: Writer = self.lake.writer(QUIET)
        self.pending: dict[str, bytes] = {}
        self.committed: dict[int, dict[str, bytes]] = {0: {}}
        self.tags: dict[str, int] = {}

    def is_file(self, path: str) -> bool:
        return path in self.pending

    def is_directory(self, path: str) -> bool:
        return any(name.startswith(f"{path}/") for name in self.pending)

    def below_file(self, path: str) -> bool:
        pieces = path.split("/")
        return any("/".join(pieces[:count]) in self.pending for count in range(1, len(pieces)))

    def note(self) -> int:
        """Remember what the newest snapshot must hold from now on."""
        number = self.lake.snapshot().number
        self.committed[number] = dict(self.pending)
        return number

    @initialize(target=snapshots, files=st.lists(PATHS, min_size=8, max_size=20))
    def begin(self, files: list[str]) -> int:
        """Start from a merged run, so that later merges have something below them."""
        for path in files:
            self.put(path, path.encode())
        self.writer.flush()
        self.lake.merge_index()
        return self.note()

    # -- writing ---------------------------------------------------------------------------------

    @rule(path=PATHS, data=DATA)
    def put(self, path: str, data: bytes) -> None:
        if self.below_file(path):
            with pytest.raises(Invalid, match="directories above it"):
                self.writer.put(path, data)
        elif not self.is_directory(path):
            self.writer.put(path, data)
            self.pending[path] = data

    @precondition(lambda self: self.pending)
    @rule(choice=st.randoms(use_true_random=False), data=DATA)
    def overwrite(self, choice: Random, data: bytes) -> None:
        path = choice.choice(sorted(self.pending))
        self.writer.put(path, data)
        self.pending[path] = data

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        if self.is_file(path):
            self.writer.delete(path)
            del self.pending[path]
        else:
            with pytest.raises(Invalid if self.is_directory(path) else NotFound):
                self.writer.delete(path)

    @rule(path=PATHS)
    def delete_tree(self, path: str) -> None:
        gone = [name for name in self.pending if name == path or name.startswith(f"{path}/")]
        if not gone:
            with pytest.raises(NotFound):
                self.writer.delete_tree(path)
            return
        self.writer.delete_tree(path)
        for name in gone:
            del self.pending[name]

    @rule(source=PATHS, goal=PATHS)
    def rename(self, source: str, goal: str) -> None:
        moved = [name for name in self.pending if name == source or name.startswith(f"{source}/")]
        refused = (
            self.below_file(goal)
            or goal == source
            or goal.startswith(f"{source}/")
            or self.is_directory(goal)
            or (self.is_directory(source) and self.is_file(goal))
        )
        if refused or not moved:
            with pytest.raises((Invalid, NotFound)):
                self.writer.rename(source, goal)
            return
        self.writer.rename(source, goal)
        data = {name: self.pending.pop(name) for name in moved}
        self.pending.update({goal + name[len(source) :]: held for name, held in data.items()})

    @rule(source=PATHS, goal=PATHS)
    def copy(self, source: str, goal: str) -> None:
        if self.below_file(goal) or not self.is_file(source):
            with pytest.raises((Invalid, NotFound)):
                self.writer.copy(source, goal)
        elif not self.is_directory(goal):
            self.writer.copy(source, goal)
            self.pending[goal] = self.pending[source]

    @rule(target=snapshots)
    def flush(self) -> int:
        self.writer.flush()
        return self.note()

    # -- housekeeping ----------------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.writer.close()
        self.lake.close()
        self.lake = Lake.open(self.volume)
        self.writer = self.lake.writer(QUIET)
        self.note()

    @rule(everything=st.booleans())
    def merge(self, everything: bool) -> None:
        self.writer.flush()
        self.lake.merge_index(everything=everything)
        self.note()

    @rule(
        target_bytes=st.sampled_from([1, 100, 5000, 1 << 30]),
        live_ratio=st.sampled_from([0.0, 0.5, 0.8]),
        layout=st.sampled_from(["path", "shuffled"]),
        rows_max=st.sampled_from([5, 1000]),
    )
    def compact(self, target_bytes: int, live_ratio: float, layout: Layout, rows_max: int) -> None:
        self.writer.flush()
        options = CompactionOptions(target_bytes, live_ratio, rows_max=rows_max)
        compact(self.lake, options, CopyOptions(layout))
        self.note()

    @rule(target=snapshots, name=TAGS, everything=st.booleans())
    def tag_and_move_on(self, name: str, everything: bool) -> int:
        """Keep what is there now, and replace the segments below it."""
        self.writer.flush()
        self.tag(name, self.note())
        self.put("a!/b", name.encode())
        self.merge(everything)
        return self.note()

    @precondition(lambda self: self.pending)
    @rule(choice=st.randoms(use_true_random=False))
    def delete_one_and_merge(self, choice: Random) -> None:
        """A tombstone over a big run: the merge must keep it."""
        self.merge(everything=True)
        self.delete(choice.choice(sorted(self.pending)))
        self.merge(everything=False)

    @rule(name=TAGS, number=snapshots)
    def tag(self, name: str, number: int) -> None:
        horizon = self.lake.snapshot().state.horizon
        if number < horizon and number not in self.tags.values():
            with pytest.raises(SnapshotExpired):
                self.lake.tag(name, number, move=True)
        else:
            self.lake.tag(name, number, move=True)
            self.tags[name] = number

    @precondition(lambda self: self.tags)
    @rule(name=TAGS)
    def untag(self, name: str) -> None:
        if self.tags.pop(name, None) is not None:
            self.lake.refs.delete(name)

    @rule()
    def collect_garbage(self) -> None:
        # The writer's uncommitted packs would count as orphans: with a real grace they never do.
        self.writer.flush()
        self.note()
        collect(self.lake, AT_ONCE)
        self.note()

    # -- what always holds -----------------------------------------------------------------------

    @invariant()
    def head_and_tags_hold_what_the_model_holds(self) -> None:
        head = self.lake.snapshot()
        assert contents(head) == self.committed[head.number]
        for name, number in self.tags.items():
            assert contents(self.lake.snapshot(name)) == self.committed[number]

    @invariant()
    def the_writer_reads_its_own_writes(self) -> None:
        for directory in {path.rpartition("/")[0] for path in [*self.pending, ""]}:
            listed = [row.path for row in self.writer.ls(directory)]
            assert listed == children_of(self.pending, directory)
        for path, data in self.pending.items():
            assert self.writer.get(path) == data

    @invariant()
    def fsck_is_clean(self) -> None:
        report = check(self.lake, deep=True)
        assert report.clean, report.findings

    def teardown(self) -> None:
        self.writer.close()
        self.lake.close()


@pytest.mark.slow
def test_a_lake_equals_a_dictionary_per_snapshot() -> None:
    profile = settings(
        max_examples=15,
        stateful_step_count=25,
        suppress_health_check=list(HealthCheck),
    )
    with small_groups():
        run_state_machine_as_test(LakeMachine, settings=profile)
