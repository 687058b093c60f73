"""A batch that one replica does not find in the log may be committed by a slow one after all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import Conflict
from lakefeed.service import ingest, taking
from lakefeed.service.ingest import Ingest
from lakefeed.service.waiting import Candidate
from tests.service.tools import Died, drop, dying, race, run_once, service, waiting


def test_a_batch_given_up_for_lost_that_was_committed_after_all_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other replica finds no commit, we make it, a user deletes; then the other one goes on."""
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        other = made.inbox()

        def look() -> None:
            other._open()

        race(made, monkeypatch, look)
        dying(monkeypatch, Ingest, "_publish", after=True)
        with pytest.raises(Died):
            made.take()
        assert made.commits() == 1
        with made.lake.writer() as writer:
            writer.delete("a")
        with pytest.raises(Conflict):
            run_once(other)
        assert waiting(made.root) == []
        assert made.files() == {}
        assert made.commits() == 1


@pytest.mark.parametrize("far", [0, 1000])
def test_a_batch_is_known_even_if_whoever_missed_it_in_the_log_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, far: int
) -> None:
    monkeypatch.setattr(ingest, "_FAR", far)
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        publish = Ingest._publish

        def missed(self: Ingest, *args: Any) -> None:
            with made.lake.writer() as writer:
                writer.put("meanwhile", b"")
            made.inbox()._open()
            publish(self, *args)
            raise Died

        monkeypatch.setattr(Ingest, "_publish", missed)
        with pytest.raises(Died):
            made.take()
        monkeypatch.undo()
        with made.lake.writer() as writer:
            writer.delete("a")
        assert made.take() == 0
        assert waiting(made.root) == []
        assert made.files() == {"meanwhile": b""}
        assert list((made.root / ".lakefeed").glob("*.open")) == []


def test_a_record_that_a_crash_was_moving_on_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else commits any more, so it is moved on to the same snapshot."""
    monkeypatch.setattr(ingest, "_FAR", 0)
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        with monkeypatch.context() as patch:
            dying(patch, Ingest, "_publish", after=False)
            with pytest.raises(Died):
                made.take()
            with made.lake.writer() as writer:
                writer.put("meanwhile", b"")
            dying(patch, os, "replace", after=False)
            with pytest.raises(Died):
                made.take()
        assert made.take() == 1
        assert made.files() == {"a": b"1", "meanwhile": b""}
        assert list((made.root / ".lakefeed").glob("*.open")) == []


def test_a_batch_given_up_for_lost_whose_files_are_stuck_is_known_for_as_long_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(root_fd: int, fd: int, file: Candidate, *claim: Any) -> None:
        if file.path == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(root_fd, fd, file, *claim)

    remove = taking._remove
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        other = made.inbox()
        publish = Ingest._publish

        def given_up(self: Ingest, *args: Any) -> None:
            other._open()
            publish(self, *args)
            raise Died

        with monkeypatch.context() as patch:
            patch.setattr(Ingest, "_publish", given_up)
            with pytest.raises(Died):
                made.take()
        monkeypatch.setattr(taking, "_remove", refusing)
        other._open()  # it was committed after all
        drop(made.root, "b", b"2")
        assert run_once(other) == 1
        with made.lake.writer() as writer:
            writer.delete("a")
        later = made.inbox()
        later._ingest = other._ingest
        for box in (later, made.inbox()):
            assert run_once(box) == 0
        assert waiting(made.root) == ["a"]
        assert made.files() == {"b": b"2"}
