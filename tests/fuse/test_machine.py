"""Any sequence of calls leaves the mount as it leaves a plain directory, and the lake as the mount.

A Hypothesis state machine does the same to a directory of the mount and to one of the local file
system; after each step the results agree, and in the end the whole trees, the committed lake, and
what a second mount shows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from lakefeed import Lake
from tests.fuse.tools import Mounted, mounted, needs_fuse, wait_until

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]

names = st.sampled_from(["a", "b", "c", "d e", "ü"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
data = st.one_of(
    st.binary(max_size=200),
    st.integers(1, 3_000_000).map(lambda size: (b"%08d" % size * (size // 8 + 1))[:size]),
)


def tree(directory: Path) -> dict[str, object]:
    """Everything below a directory: kinds, modes, contents."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("directory", oct(info.st_mode))
        else:
            found[name] = ("file", oct(info.st_mode), path.read_bytes())
    return found


class Calls(RuleBasedStateMachine):
    """The machine; `here` is the mount, shared by all runs."""

    here: Mounted

    def __init__(self) -> None:
        super().__init__()
        self.mount = Path(tempfile.mkdtemp(dir=self.here.path))
        self.plain = Path(tempfile.mkdtemp())
        self.handles: list[tuple[int, int]] = []

    def both(self, action: Callable[[Path], Any]) -> None:
        outcomes = []
        for root in (self.mount, self.plain):
            try:
                outcomes.append(("result", action(root)))
            except OSError as error:
                outcomes.append(("errno", error.errno))
        assert outcomes[0] == outcomes[1]

    @rule(path=paths, content=data)
    def write(self, path: str, content: bytes) -> None:
        self.both(lambda root: (root / path).write_bytes(content))

    @rule(path=paths, content=st.binary(max_size=100), offset=st.integers(0, 2000))
    def overwrite(self, path: str, content: bytes, offset: int) -> None:
        def action(root: Path) -> int:
            handle = os.open(root / path, os.O_WRONLY)
            try:
                return os.pwrite(handle, content, offset)
            finally:
                os.close(handle)

        self.both(action)

    @rule(path=paths, size=st.integers(0, 5000))
    def truncate(self, path: str, size: int) -> None:
        self.both(lambda root: os.truncate(root / path, size))

    @rule(path=paths)
    def read(self, path: str) -> None:
        self.both(lambda root: (root / path).read_bytes())

    @rule(path=paths)
    def mkdir(self, path: str) -> None:
        self.both(lambda root: os.mkdir(root / path))

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.both(lambda root: os.rmdir(root / path))

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.both(lambda root: os.unlink(root / path))

    @rule(old=paths, new=paths)
    def rename(self, old: str, new: str) -> None:
        self.both(lambda root: os.rename(root / old, root / new))

    @rule(path=paths, goal=paths)
    def symlink(self, path: str, goal: str) -> None:
        self.both(lambda root: os.symlink(goal, root / path))

    @rule(path=paths, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def chmod(self, path: str, mode: int) -> None:
        self.both(lambda root: os.chmod(root / path, mode))

    @rule(path=paths)
    def hold(self, path: str) -> None:
        opened: list[int] = []
        self.both(lambda root: opened.append(os.open(root / path, os.O_RDWR)))
        if len(opened) == 2:
            self.handles.append((opened[0], opened[1]))

    @rule(content=st.binary(max_size=50), offset=st.integers(0, 100))
    def write_held(self, content: bytes, offset: int) -> None:
        for pair in self.handles:
            assert len({os.pwrite(handle, content, offset) for handle in pair}) == 1
            assert len({os.pread(handle, 1 << 16, 0) for handle in pair}) == 1

    @rule()
    def release(self) -> None:
        for pair in self.handles:
            for handle in pair:
                os.close(handle)
        self.handles = []

    @rule()
    def commit(self) -> None:
        self.here.sync()

    @rule()
    def another_writer(self) -> None:
        with Lake.open(self.here.lake) as lake, lake.writer() as writer:
            writer.put(f"others/{os.urandom(4).hex()}", b"x")

    @invariant()
    def names_agree(self) -> None:
        assert sorted(os.listdir(self.mount)) == sorted(os.listdir(self.plain))

    def teardown(self) -> None:
        self.release()
        expected = tree(self.plain)
        assert tree(self.mount) == expected
        self.here.sync()
        assert tree(self.mount) == expected
        with Lake.open(self.here.lake) as lake:
            snapshot = lake.snapshot()
            for name, facts in expected.items():
                path = f"{self.mount.name}/{name}"
                if isinstance(facts, tuple) and facts[0] == "file":
                    assert snapshot.get(path) == facts[2]
                else:
                    assert snapshot.exists(path)
        shutil.rmtree(self.plain)


def test_any_sequence_of_calls_is_as_on_a_plain_directory(lake: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        options = ("--rw", "--commit-age", "50ms", "--refresh", "200ms")
        here = stack.enter_context(mounted(lake, tmp_path / "mnt", *options))
        Calls.here = here
        run_state_machine_as_test(
            Calls,
            settings=settings(
                max_examples=30, stateful_step_count=40, deadline=None, print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
        # All is committed before the second mount chooses its snapshot. What another writer did
        # last comes to the first one with its next refresh; fsync does not wait for that.
        here.sync()
        second = stack.enter_context(mounted(lake, tmp_path / "second"))
        shown = tree(second.path)
        wait_until(lambda: tree(here.path) == shown)
