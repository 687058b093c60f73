"""Several lakes under one roof: their files as one, and a sick one in nobody's way."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest

from lakefeed import Cache, Feed, FeedOptions
from lakefeed.errors import Corrupt, Invalid, NotFound, VolumeFailed
from lakefeed.format.rows import Kind, rows_from_table
from lakefeed.lake import layout
from lakefeed.lake.federation import Federation
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount, Mounts, checked, save
from lakefeed.lake.query import Query
from lakefeed.lake.usage import usage_by_directory
from lakefeed.volume.base import Volume
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.posix import PosixVolume
from tests.lake.tools import QUIET, children_of, damage, write
from tests.support.faulty import FaultyVolume
from tests.support.stalling import stalling

FILES = {
    "cameras/line1": {"1.jpg": b"one", "2.jpg": b"two", "day/3.jpg": b"3" * 5000},
    "cameras/line1!": {"a": b"sorts before line1/"},
    "train": {"cat/1": b"cat", "dog/1": b"dog", "big": bytes(9000)},
}
ALL = {f"{prefix}/{path}": data for prefix, files in FILES.items() for path, data in files.items()}


class World:
    """Three lakes on three volumes, one of which can be made sick."""

    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}
        mounts = []
        for prefix, files in FILES.items():
            where = f"/{prefix.replace('/', '-')}"
            volume = self.volumes[where] = MemoryVolume(capacity_bytes=1 << 20)
            mounts.append(Mount(prefix, where))
            with Lake.create(volume) as lake:
                for path, data in files.items():
                    write(lake, {path: data})
                lake.tag("v1")
        self.mounts = checked(mounts)
        self.opened: list[str] = []

    def volume_at(self, where: str) -> Volume:
        self.opened.append(where)
        return self.volumes[where]

    def federation(self, mounts: Mounts | None = None) -> Federation:
        return Federation("all", mounts or self.mounts, "/", self.volume_at)

    def make_sick(self, where: str) -> FaultyVolume:
        sick = FaultyVolume(self.volumes[where], 1, dead=True)
        self.volumes[where] = sick  # type: ignore[assignment]
        return sick


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def lakes(world: World) -> Iterator[Federation]:
    with world.federation() as federation:
        yield federation


def everything(lakes: Federation, prefix: str = "") -> dict[str, bytes]:
    snapshot = lakes.snapshot()
    found: dict[str, bytes] = {}
    for table in snapshot.scan(prefix):
        found.update(zip(table["path"].to_pylist(), snapshot.read_rows(table), strict=True))
    return found


def test_all_files_appear_under_their_prefixes_in_path_order(lakes: Federation) -> None:
    found = everything(lakes)
    assert found == ALL
    assert list(found) == sorted(ALL)
    assert list(everything(lakes, "cameras")) == sorted(p for p in ALL if p.startswith("cameras/"))
    assert everything(lakes, "train/cat") == {"train/cat/1": b"cat"}
    assert everything(lakes, "train/cat/1") == {"train/cat/1": b"cat"}


def test_directories_are_listed_inside_lakes_and_above_them(lakes: Federation) -> None:
    snapshot = lakes.snapshot()
    for directory in ("", "cameras", "cameras/line1", "cameras/line1/day", "train"):
        assert [row.path for row in snapshot.ls(directory)] == children_of(ALL, directory)
    for missing in ("nowhere", "cameras/line2", "train/bird"):
        with pytest.raises(NotFound):
            snapshot.ls(missing)
    with pytest.raises(Invalid):
        snapshot.ls("train/big")


def test_rows_and_bytes_come_from_the_lake_that_holds_the_path(lakes: Federation) -> None:
    snapshot = lakes.snapshot()
    paths = [*ALL, *ALL][::-1]
    assert snapshot.get_many(paths) == [ALL[path] for path in paths]
    assert snapshot.get("train/cat/1") == b"cat"
    assert snapshot.stat("cameras/line1/day/3.jpg").size == 5000
    assert snapshot.stat("cameras/line1/day/3.jpg").path == "cameras/line1/day/3.jpg"
    for directory in ("", "cameras", "cameras/line1", "cameras/line1/day"):
        row = snapshot.stat(directory)
        assert (row.path, row.kind) == (directory, Kind.DIR)
        assert snapshot.exists(directory)
    assert not snapshot.exists("train/no")
    assert not snapshot.exists("no")
    assert snapshot.read_range("train/big", 10, 20) == bytes(20)
    assert snapshot.read_row(snapshot.stat("train/big")) == bytes(9000)
    with pytest.raises(NotFound):
        snapshot.get_many(["train/big", "nowhere/x"])
    for directory in ("cameras", "train"):
        with pytest.raises(Invalid):
            snapshot.get(directory)


def test_many_paths_are_located_at_once_in_the_order_asked(lakes: Federation) -> None:
    paths = ["train/big", "no", "cameras/line1/1.jpg", "train/no", "train/big", "cameras"]
    for asked in (paths, pa.array(paths)):
        table = lakes.snapshot().locate(asked)
        assert table["path"].to_pylist() == [path if path in ALL else None for path in paths]
        there = [ALL[path] for path in paths if path in ALL]
        assert table["size"].drop_null().to_pylist() == [len(data) for data in there]
    assert lakes.snapshot().locate([]).num_rows == 0
    assert lakes.snapshot().locate(paths, ("kind", "seq")).column_names == ["kind", "seq"]


def test_searches_and_sizes_go_over_all_lakes(lakes: Federation) -> None:
    snapshot = lakes.snapshot()
    found = [path for table in snapshot.find(Query(glob="**/1*")) for path in
             table["path"].to_pylist()]  # fmt: skip
    assert found == ["cameras/line1/1.jpg", "train/cat/1", "train/dog/1"]
    total = usage_by_directory(snapshot)[0]
    assert (total.files, total.size_bytes) == (len(ALL), sum(map(len, ALL.values())))


def test_a_lake_is_opened_only_when_something_of_it_is_wanted(world: World) -> None:
    with world.federation() as lakes:
        snapshot = lakes.snapshot()
        assert [row.path for row in snapshot.ls("")] == ["cameras", "train"]
        assert not world.opened
        assert snapshot.get("train/cat/1") == b"cat"
        assert snapshot.get("train/dog/1") == b"dog"
        assert world.opened == ["/train"]


def test_a_sick_volume_leaves_the_others_readable_and_is_named(world: World) -> None:
    world.make_sick("/cameras-line1")
    with world.federation() as lakes:
        snapshot = lakes.snapshot()
        assert snapshot.get("train/cat/1") == b"cat"
        assert [row.path for row in snapshot.ls("cameras")] == ["cameras/line1", "cameras/line1!"]
        with pytest.raises(VolumeFailed, match="/cameras-line1") as failed:
            snapshot.get("cameras/line1/1.jpg")
        assert failed.value.errno == errno.EIO
        # Over all: everything that is readable, and then the error. Never silently less.
        found: list[str] = []
        with pytest.raises(VolumeFailed, match="/cameras-line1"):
            for table in snapshot.scan():
                found += table["path"].to_pylist()
        assert found == sorted(path for path in ALL if not path.startswith("cameras/line1/"))
        with pytest.raises(VolumeFailed):
            _ = snapshot.number
        states = {health.mount.prefix: health.error is None for health in lakes.health()}
        assert states == {"cameras/line1": False, "cameras/line1!": True, "train": True}


def test_a_view_does_not_wait_for_a_sick_lake_twice_and_the_next_one_tries_again(
    world: World,
) -> None:
    well = world.volumes["/train"]
    sick = world.make_sick("/train")
    with world.federation() as lakes:
        snapshot = lakes.snapshot()
        for _ in range(3):
            with pytest.raises(VolumeFailed):
                snapshot.get("train/cat/1")
        assert sick.count() == 1
        world.volumes["/train"] = well
        with pytest.raises(VolumeFailed):
            snapshot.get("train/cat/1")
        assert lakes.snapshot().get("train/cat/1") == b"cat"


def test_two_sick_lakes_are_both_named(world: World) -> None:
    world.make_sick("/train")
    world.make_sick("/cameras-line1!")
    with world.federation() as lakes, pytest.raises(VolumeFailed) as failed:
        list(lakes.snapshot().scan())
    assert "/train" in failed.value.text
    assert "/cameras-line1!" in failed.value.text


def test_lakes_that_become_sick_under_a_view_are_named(world: World) -> None:
    with world.federation() as lakes:
        snapshot = lakes.snapshot()
        snapshot.prepare()
        for volume in world.volumes.values():
            volume.open = Mock(side_effect=VolumeFailed("open"))  # type: ignore[method-assign]
        with pytest.raises(VolumeFailed) as failed:
            list(snapshot.scan())
    assert all(f"at '{prefix}'" in failed.value.text for prefix in FILES)


def test_damage_is_corrupt_and_named_with_its_whole_path(world: World) -> None:
    volume = world.volumes["/train"]
    with Lake.open(volume) as lake:
        row = lake.snapshot().stat("cat/1")
    damage(volume, layout.pack_path(row.pack), row.offset)
    with world.federation() as lakes:
        with pytest.raises(Corrupt):
            lakes.snapshot().get("train/cat/1")
        assert lakes.snapshot().get("train/dog/1") == b"dog"


def test_a_writer_sends_each_change_to_its_lake(world: World, lakes: Federation) -> None:
    with lakes.writer(QUIET, message="by roof") as writer:
        writer.put("train/new", b"1")
        writer.put_file("cameras/line1/file", Path(__file__))
        writer.symlink("train/link", "new")
        writer.mkdir("train/empty")
        writer.rename("train/dog", "train/hound")
        writer.copy("train/cat/1", "train/copy")
        writer.delete("cameras/line1/1.jpg")
        assert writer.get("train/new") == b"1"
        assert writer.stat("train/hound/1").path == "train/hound/1"
        assert set(writer.flush()) == {"train", "cameras/line1"}
        writer.delete_tree("cameras/line1!/a")
    snapshot = lakes.snapshot()
    assert snapshot.get_many(["train/new", "train/hound/1", "train/copy"]) == [b"1", b"dog", b"cat"]
    assert snapshot.get("cameras/line1/file") == Path(__file__).read_bytes()
    assert not snapshot.exists("cameras/line1/1.jpg")
    assert snapshot.ls("cameras/line1!") == []
    with Lake.open(world.volumes["/train"]) as lake:
        assert next(lake.history()).message == "by roof"
        assert lake.snapshot().get("new") == b"1"


def test_changes_that_are_in_no_lake_or_in_two_are_refused(lakes: Federation) -> None:
    with lakes.writer(QUIET) as writer:
        for path in ("nowhere/x", "cameras"):
            with pytest.raises(NotFound):
                writer.put(path, b"")
        with pytest.raises(Invalid, match="root"):
            writer.put("train", b"")
        for move in (writer.rename, writer.copy):
            with pytest.raises(Invalid, match="same lake"):
                move("train/big", "cameras/line1/big")


def test_one_full_volume_leaves_the_changes_of_the_others_standing(world: World) -> None:
    with world.federation() as lakes:
        writer = lakes.writer(QUIET)
        writer.put("cameras/line1!/new", b"1")
        writer.put("train/new", b"2")
        writer.put("cameras/line1/new", b"3")
        full = world.volumes["/train"]
        with full.create("tmp/ballast") as file:
            file.write([bytes(full.space().free_bytes)])
        with pytest.raises(VolumeFailed, match="full"):
            writer.flush()
        writer.close()
        snapshot = lakes.snapshot()
        assert snapshot.get_many(["cameras/line1/new", "cameras/line1!/new"]) == [b"3", b"1"]
        assert not snapshot.exists("train/new")


def test_of_several_lakes_that_fail_the_first_is_told(
    lakes: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(prefix: str) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise VolumeFailed(f"commit to {prefix}", found="EIO")

        return fail

    writer = lakes.writer(QUIET)
    for prefix in ("train", "cameras/line1"):
        monkeypatch.setattr(lakes.lake(prefix).log, "commit", failing(prefix))
        writer.put(f"{prefix}/new", b"1")
    with pytest.raises(VolumeFailed, match="commit to train"):
        writer.flush()
    writer.close()  # both were flushed: there is nothing left to tell


def test_leaving_a_writer_by_an_exception_drops_what_was_not_acknowledged(
    lakes: Federation,
) -> None:
    with pytest.raises(RuntimeError, match="stop"), lakes.writer(QUIET) as writer:
        writer.put("train/new", b"1")
        raise RuntimeError("stop")
    assert not lakes.snapshot().exists("train/new")


def test_tags_times_and_fixed_mounts_choose_the_snapshots(world: World, lakes: Federation) -> None:
    with lakes.writer(QUIET) as writer:
        writer.put("train/cat/1", b"newer")
        writer.put("cameras/line1/1.jpg", b"newer")
    tagged = lakes.snapshot("v1")
    assert tagged.get_many(["train/cat/1", "cameras/line1/1.jpg"]) == [b"cat", b"one"]
    assert lakes.snapshot().get("train/cat/1") == b"newer"
    before = lakes.lake("train/x").log.read(1).time_ns
    assert not lakes.snapshot(time_ns=before).exists("train/big")
    with pytest.raises(Invalid):
        lakes.snapshot("7")
    with pytest.raises(NotFound, match=r"tag 'v9' of .* at 'train'"):
        lakes.snapshot("v9").get("train/big")
    mounts = [Mount("train", "/train", "v1"), Mount("now", "/cameras-line1")]
    with world.federation(checked(mounts)) as fixed:
        assert fixed.snapshot().get("train/cat/1") == b"cat"
        assert fixed.snapshot().get("now/1.jpg") == b"newer"
        with fixed.writer() as writer, pytest.raises(Invalid, match="fixed"):
            writer.put("train/x", b"")


def test_numbers_stand_for_the_snapshots_of_all_lakes(lakes: Federation) -> None:
    first = lakes.snapshot().number
    assert lakes.snapshot().number == first
    with lakes.writer(QUIET) as writer:
        writer.put("train/new", b"1")
    assert lakes.snapshot().number != first


def test_a_feed_serves_the_files_of_all_lakes_in_one_order(lakes: Federation) -> None:
    snapshot = lakes.snapshot()
    served: dict[str, bytes] = {}
    options = FeedOptions(batch_size=3, seed=5)
    with Feed(snapshot, "", options) as feed:  # type: ignore[arg-type]
        for batch in feed:
            served.update(zip(batch.paths, (bytes(view) for view in batch.views()), strict=True))
    assert served == ALL


def test_a_node_cache_keeps_blocks_of_all_lakes(
    world: World, lakes: Federation, tmp_path: Path
) -> None:
    options = FeedOptions(batch_size=3, cache=Cache(tmp_path, "64MiB"))
    for _ in range(2):
        served: dict[str, bytes] = {}
        with Feed(lakes.snapshot(), "", options) as feed:  # type: ignore[arg-type]
            for batch in feed:
                served.update(zip(batch.paths, batch.bytes(), strict=True))
            stats = feed.stats()
        assert served == ALL
    assert stats.cache_hits > 0
    assert stats.cache_misses == 0


@pytest.mark.slow
def test_a_filer_that_stops_answering_is_a_typed_error_and_the_rest_is_read(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        with Lake.create(tmp_path / name) as lake:
            write(lake, {"x": name.encode()})
    (tmp_path / "sick").mkdir()
    mounts = [Mount(name, name) for name in ("a", "b", "sick")]
    save(PosixVolume(tmp_path), "all.json", checked(mounts))
    with stalling(tmp_path / "sick") as filer:
        filer.stop()
        try:
            with Federation.open(tmp_path / "all.json", timeout_seconds=2.0) as lakes:
                snapshot = lakes.snapshot()
                assert snapshot.get_many(["b/x", "a/x"]) == [b"b", b"a"]
                with pytest.raises(VolumeFailed) as failed:
                    snapshot.get("sick/data")
                assert failed.value.errno == errno.ETIMEDOUT
                found: list[str] = []
                with pytest.raises(VolumeFailed):
                    for table in snapshot.scan():
                        found += [row.path for row in rows_from_table(table)]
                assert found == ["a/x", "b/x"]
        finally:
            filer.resume()


def test_an_unknown_file_and_a_missing_lake_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="federate"):
        Federation.open(tmp_path / "none.json")
    (tmp_path / "all.json").write_text(
        '{"federation": 1, "mounts": [{"prefix": "a", "lake": "gone"}]}'
    )
    with Federation.open(tmp_path / "all.json") as lakes:
        with pytest.raises(NotFound, match="gone"):
            lakes.snapshot().get("a/x")
        assert lakes.snapshot().locate(["b"])["kind"].null_count == 1
        assert np.asarray(lakes.snapshot().locate(["b"])["seq"].is_valid()).sum() == 0
