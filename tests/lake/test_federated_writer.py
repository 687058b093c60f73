"""A writer over several lakes does what that of each lake does, and nothing once it is closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lakefeed.errors import Invalid, NotFound, VolumeFailed
from lakefeed.format.pack import Meta
from lakefeed.format.rows import Kind
from lakefeed.lake.federation import Federation
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount, checked
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import QUIET, write


@pytest.fixture
def lakes() -> Iterator[Federation]:
    volumes = {"/one": MemoryVolume(), "/two": MemoryVolume()}
    for volume in volumes.values():
        with Lake.create(volume) as lake:
            write(lake, {"cat/1": b"cat", "dog": b"dog"})
    mounts = checked([Mount("one", "/one"), Mount("far/two", "/two")])
    with Federation("all", mounts, "/", volumes.__getitem__) as federation:
        yield federation


def test_what_comes_with_a_file_or_directory_comes_to_its_lake(
    lakes: Federation, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"file")
    with lakes.writer(QUIET) as writer:
        writer.put("one/put", b"put", mtime_ns=5, mode=0o600, attrs={"label": "x"})
        writer.put_file("far/two/file", local, meta=Meta(6, 0o640, {"label": "y"}))
        writer.mkdir("one/directory", 0o700, mtime_ns=7)
        writer.delete_tree("one/cat")
    snapshot = lakes.snapshot()
    found = {path: snapshot.stat(path) for path in ("one/put", "far/two/file", "one/directory")}
    assert {path: (row.mtime_ns, row.mode, row.attrs) for path, row in found.items()} == {
        "one/put": (5, 0o600, {"label": "x"}),
        "far/two/file": (6, 0o640, {"label": "y"}),
        "one/directory": (7, 0o700, None),
    }
    assert not snapshot.exists("one/cat")
    assert snapshot.exists("far/two/cat/1")


@pytest.mark.parametrize("failing", ["one", "far/two"])
def test_a_lake_that_fails_as_a_writer_is_closed_keeps_no_other_from_its_commit(
    lakes: Federation, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fails(*_: object) -> None:
        raise VolumeFailed("link", found="no answer")

    prefixes = {"one", "far/two"}
    writer = lakes.writer(QUIET)
    for prefix in sorted(prefixes):
        writer.put(f"{prefix}/new", b"1")
    lake = lakes.lake(failing)
    with monkeypatch.context() as patched, pytest.raises(VolumeFailed):
        patched.setattr(lake.volume, "link", fails)
        writer.close()
    shown = lakes.snapshot()
    assert {prefix for prefix in prefixes if shown.exists(f"{prefix}/new")} == prefixes - {failing}


@pytest.mark.parametrize("how", ["closed", "left"])
@pytest.mark.parametrize("prefix", ["one", "far/two"])
def test_a_closed_writer_refuses_whatever_lake_it_is(
    lakes: Federation, how: str, prefix: str
) -> None:
    writer = lakes.writer(QUIET)
    writer.put("one/new", b"1")
    if how == "closed":
        writer.close()
    else:
        with pytest.raises(ZeroDivisionError), writer:
            raise ZeroDivisionError
    with pytest.raises(Invalid, match="closed"):
        writer.put(f"{prefix}/late", b"2")
    writer.close()
    assert lakes.snapshot().exists("one/new") == (how == "closed")


def test_a_writer_lists_what_it_wrote_and_what_is_above_it(lakes: Federation) -> None:
    with lakes.writer(QUIET) as writer:
        writer.put("far/two/cat/2", b"new")
        listed = {directory: [row.path for row in writer.ls(directory)]
                  for directory in ("", "far", "far/two", "far/two/cat/", "one/cat")}  # fmt: skip
        assert listed == {
            "": ["far", "one"],
            "far": ["far/two"],
            "far/two": ["far/two/cat", "far/two/dog"],
            "far/two/cat/": ["far/two/cat/1", "far/two/cat/2"],
            "one/cat": ["one/cat/1"],
        }
        for directory in ("", "far", "far/two", "one/cat"):
            assert writer.stat(directory).kind is Kind.DIR
        assert writer.stat("far/two/cat/2").path == "far/two/cat/2"
        for missing in ("nowhere", "one/bird"):
            with pytest.raises(NotFound):
                writer.ls(missing)


def test_a_tree_is_copied_inside_its_lake(lakes: Federation) -> None:
    with lakes.writer(QUIET) as writer:
        writer.copy_tree("one/cat", "one/kitten")
        with pytest.raises(Invalid, match="same lake"):
            writer.copy_tree("one/cat", "far/two/kitten")
    snapshot = lakes.snapshot()
    assert snapshot.get_many(["one/cat/1", "one/kitten/1"]) == [b"cat", b"cat"]
