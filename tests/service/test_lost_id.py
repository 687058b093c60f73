"""Somebody removed an inbox's id while replicas were at work: they go by two ids for a while."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from lakefeed import Lake
from lakefeed.errors import Conflict
from lakefeed.service.records import HOME
from lakefeed.volume.base import Volume
from lakefeed.volume.posix import PosixVolume
from tests.lake.tools import GatedVolume
from tests.service.tools import Service, drop, race, run_once, service, waiting
from tests.support.patience import PATIENCE_SECONDS


def test_a_slow_replica_with_the_old_id_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        slow = made.inbox()

        def another_takes_it() -> None:
            (made.root / HOME / "id").unlink()
            assert made.take() == 1
            with made.lake.writer() as writer:
                writer.delete("a")

        race(made, monkeypatch, another_takes_it)
        with pytest.raises(Conflict):
            run_once(slow)
        assert (made.commits(), made.files(), waiting(made.root)) == (1, {}, [])
        assert made.take() == 0


def test_a_replica_with_a_new_id_gives_way_to_the_last_commit_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        volume = GatedVolume(PosixVolume(tmp_path / "lake"))
        with Lake.open(cast(Volume, volume)) as lake:
            stalled = threading.Thread(target=Service(lake, made.root).take)
            stalled.start()
            assert volume.reached.wait(PATIENCE_SECONDS)
            (made.root / HOME / "id").unlink()

            def the_stalled_one_commits() -> None:
                volume.gate.set()
                stalled.join(PATIENCE_SECONDS)
                assert made.commits() == 1

            race(made, monkeypatch, the_stalled_one_commits)
            with pytest.raises(Conflict):
                made.take()
        assert (made.commits(), made.files(), waiting(made.root)) == (1, {"a": b"1"}, [])
        drop(made.root, "b", b"2")
        assert made.take() == 1


def test_a_replica_whose_id_is_back_gives_way_to_all_that_another_one_took_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        slow, aside = made.inbox(), tmp_path / "aside"
        id_file, file = made.root / HOME / "id", made.root / "a"

        def another_goes_by_an_id_of_its_own() -> None:
            id_file.rename(aside / "id")
            file.rename(aside / "a")
            drop(made.root, "z", b"2")
            assert made.take() == 1
            (aside / "a").rename(file)
            assert made.take() == 1
            with made.lake.writer() as writer:
                writer.delete("a")
            (aside / "id").rename(id_file)

        aside.mkdir()
        race(made, monkeypatch, another_goes_by_an_id_of_its_own)
        with pytest.raises(Conflict):
            run_once(slow)
        assert (made.files(), waiting(made.root)) == ({"z": b"2"}, [])
        assert made.take() == 0


def test_another_inbox_that_puts_files_among_ours_is_in_the_way_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        other = Service(made.lake, tmp_path / "other")
        other.root.mkdir()
        for name in ("a", "c"):
            drop(made.root, name, b"1")
        mine = made.inbox()

        def both(name: str) -> Callable[[], None]:
            def take() -> None:
                drop(other.root, name, b"2")
                assert other.take() == 1

            return take

        race(made, monkeypatch, both("b"))
        with pytest.raises(Conflict):
            asyncio.run(mine.run(everything=True))
        race(made, monkeypatch, both("bb"))
        assert asyncio.run(mine.run(everything=True)) == 2
        mine.close()
        assert sorted(made.files()) == ["a", "b", "bb", "c"]
