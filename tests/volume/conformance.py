"""What every volume promises (V1 to V9 of `lakefeed.volume.base`), as one class of tests.

A volume proves itself in three lines:

    class TestMine(VolumePromises):
        @pytest.fixture
        def volume(self) -> Volume: ...
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lakefeed.errors import Conflict, LakefeedError, NotFound, VolumeFailed
from lakefeed.volume.base import Listed, ReadableFile, Volume, WritableFile, read_file, write_file
from lakefeed.volume.lists import ReadList
from lakefeed.volume.pieces import Pieces

THREADS = 8


def race(count: int, act: Callable[[int], object]) -> list[object]:
    """Start `act(0)` … `act(count - 1)` together; return what each gave or the error it raised."""
    gate = threading.Barrier(count, timeout=30)

    def run(number: int) -> object:
        gate.wait()
        try:
            return act(number)
        except LakefeedError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class VolumePromises:
    """Subclass, and give it a `volume` fixture."""

    def test_it_has_every_verb(self, volume: Volume) -> None:
        assert isinstance(volume, Volume)
        assert volume.name

    # V1

    def test_v1_a_new_file_is_there_with_its_parents(self, volume: Volume) -> None:
        write_file(volume, "a/b/c", b"bytes")
        assert read_file(volume, "a/b/c") == b"bytes"
        assert [*volume.list("a")] == [Listed("b", True)]

    def test_v1_a_name_is_created_once(self, volume: Volume) -> None:
        write_file(volume, "a", b"first")
        with pytest.raises(Conflict):
            volume.create("a")
        assert read_file(volume, "a") == b"first"

    def test_v1_a_directory_is_no_new_file(self, volume: Volume) -> None:
        volume.make_directory("a")
        with pytest.raises(Conflict):
            volume.create("a")

    def test_v1_of_many_creators_one_wins(self, volume: Volume) -> None:
        def create(number: int) -> int:
            with volume.create("d/one") as file:
                return file.write([b"%d" % number])

        results = race(THREADS, create)
        assert sum(result == 1 for result in results) == 1
        assert sum(isinstance(result, Conflict) for result in results) == THREADS - 1
        assert len(read_file(volume, "d/one")) == 1

    # V2 (what a power cut leaves is tested where one can be had: in memory, and on a real disk)

    def test_v2_syncing_changes_nothing_that_readers_see(self, volume: Volume) -> None:
        with volume.create("d/a") as file:
            file.write([b"one"])
            file.sync()
            file.write([b"two"])
            file.sync()
        volume.sync_directory("d")
        volume.sync_directory("")
        assert read_file(volume, "d/a") == b"onetwo"

    # V3

    def test_v3_a_link_is_the_same_file(self, volume: Volume) -> None:
        write_file(volume, "tmp", b"whole")
        volume.make_directory("d")
        volume.link("tmp", "d/final")
        assert read_file(volume, "d/final") == b"whole"
        assert volume.stat("d/final").links == 2
        volume.unlink("tmp")
        assert read_file(volume, "d/final") == b"whole"
        assert volume.stat("d/final").links == 1

    def test_v3_a_taken_name_is_kept(self, volume: Volume) -> None:
        write_file(volume, "tmp", b"late")
        write_file(volume, "final", b"early")
        with pytest.raises(Conflict):
            volume.link("tmp", "final")
        assert read_file(volume, "final") == b"early"
        assert volume.stat("tmp").links == 1

    def test_v3_of_many_links_to_a_name_one_wins(self, volume: Volume) -> None:
        for number in range(THREADS):
            write_file(volume, f"tmp{number}", b"%d" % number)
        results = race(THREADS, lambda number: volume.link(f"tmp{number}", "final"))
        winner = results.index(None)
        assert sum(isinstance(result, Conflict) for result in results) == THREADS - 1
        assert read_file(volume, "final") == b"%d" % winner

    def test_v3_only_what_exists_is_linked(self, volume: Volume) -> None:
        with pytest.raises(NotFound):
            volume.link("none", "final")
        write_file(volume, "tmp", b"")
        with pytest.raises(NotFound):
            volume.link("tmp", "no/such/directory")

    # V4

    def test_v4_a_replaced_file_has_the_new_bytes(self, volume: Volume) -> None:
        write_file(volume, "hint", b"old")
        write_file(volume, "tmp", b"newer")
        volume.replace("tmp", "hint")
        assert read_file(volume, "hint") == b"newer"
        assert volume.stat("hint").links == 1
        with pytest.raises(NotFound):
            volume.stat("tmp")

    def test_v4_readers_see_the_old_bytes_or_the_new(self, volume: Volume) -> None:
        write_file(volume, "hint", b"a" * 100)
        for number in range(20):
            write_file(volume, f"tmp{number}", b"%c" % (98 + number) * 100)

        def act(number: int) -> set[bytes]:
            if number:
                return {read_file(volume, "hint") for _ in range(50)}
            for tmp in range(20):
                volume.replace(f"tmp{tmp}", "hint")
            return set()

        for seen in race(4, act):
            assert isinstance(seen, set)
            assert all(len(data) == 100 and len(set(data)) == 1 for data in seen)

    def test_v4_a_file_may_replace_itself(self, volume: Volume) -> None:
        write_file(volume, "a", b"bytes")
        volume.replace("a", "a")
        assert read_file(volume, "a") == b"bytes"
        assert volume.stat("a").links == 1

    def test_v4_only_what_exists_replaces(self, volume: Volume) -> None:
        write_file(volume, "hint", b"old")
        with pytest.raises(NotFound):
            volume.replace("none", "hint")
        assert read_file(volume, "hint") == b"old"
        with pytest.raises(NotFound):
            volume.replace("hint", "no/such/directory")

    # V5

    def test_v5_a_closed_file_shows_everything(self, volume: Volume) -> None:
        with volume.create("a") as file:
            assert file.write([b"12", bytearray(b"345"), memoryview(b"6"), b""]) == 6
            assert file.write([]) == 0
            assert file.tell() == 6
            assert file.stat().size == 6
        with volume.open("a") as reader:
            assert reader.size == reader.stat().size == volume.stat("a").size == 6
            assert reader.read_at(0, 6) == b"123456"

    def test_v5_many_small_buffers_arrive_in_order(self, volume: Volume) -> None:
        parts = [b"%d," % number for number in range(3000)]
        with volume.create("a") as file:
            assert file.write(parts) == len(b"".join(parts))
        assert read_file(volume, "a") == b"".join(parts)

    def test_v5_times_are_the_volumes(self, volume: Volume) -> None:
        write_file(volume, "a", b"1")
        first = volume.stat("a").mtime_ns
        write_file(volume, "b", b"2")
        assert 0 < first <= volume.stat("b").mtime_ns

    # V6

    def test_v6_a_read_is_exact(self, volume: Volume) -> None:
        write_file(volume, "a", bytes(range(200)))
        with volume.open("a") as file:
            assert file.read_at(0, 0) == b""
            assert file.read_at(200, 0) == b""
            assert file.read_at(199, 1) == b"\xc7"
            assert file.read_at(10, 5) == bytes(range(10, 15))

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (9, 2), (10, 1), (1000, 1), (-1, 1)])
    def test_v6_a_short_read_fails(self, volume: Volume, offset: int, length: int) -> None:
        write_file(volume, "a", b"0123456789")
        with volume.open("a") as file:
            with pytest.raises(VolumeFailed):
                file.read_at(offset, length)
            with pytest.raises(VolumeFailed):
                file.read_into(offset, [memoryview(bytearray(length))])

    def test_v6_buffers_are_filled_in_order(self, volume: Volume) -> None:
        data = bytes(number % 251 for number in range(5000))
        write_file(volume, "a", data)
        with volume.open("a") as file:
            buffers = [bytearray(size) for size in (1, 0, 100, 7)]
            assert file.read_into(3, [memoryview(buffer) for buffer in buffers]) == 108
            assert b"".join(buffers) == data[3:111]
            many = [bytearray(1) for _ in range(3000)]
            assert file.read_into(11, [memoryview(buffer) for buffer in many]) == 3000
            assert b"".join(many) == data[11:3011]
            assert file.read_into(0, []) == 0

    def test_v6_pieces_of_memory_are_filled_like_buffers(self, volume: Volume) -> None:
        data = bytes(number % 251 for number in range(5000))
        write_file(volume, "a", data)
        memory = [np.zeros(3000, np.uint8), np.zeros(2000, np.uint8)]
        which = np.arange(3000) % 2
        start = (np.arange(3000) * 7919) % 1500  # places of one byte, each twice at most
        pieces = Pieces(memory, which, start, np.ones(3000, np.int64))
        with volume.open("a") as file:
            assert file.read_into(11, pieces[:2500]) == 2500
            last = dict(zip(zip(which.tolist(), start.tolist(), strict=True),
                            data[11:2511], strict=False))  # fmt: skip
            assert {place: memory[place[0]][place[1]] for place in last} == last
            assert file.read_into(5000, pieces[:0]) == 0
            with pytest.raises(VolumeFailed):
                file.read_into(4000, pieces)

    def test_v6_a_list_of_reads_fills_each_or_fails(self, volume: Volume) -> None:
        data = bytes(number % 251 for number in range(5000))
        write_file(volume, "a", data)
        memory = np.zeros(300 * 12, np.uint8)
        nothing, start = np.zeros(600, np.int64), np.arange(600) * 6
        pieces = Pieces([memory], nothing, start, nothing + np.tile([5, 4], 300))
        offset = (np.arange(300) * 7919) % 4991
        reads = ReadList(pieces, np.arange(301) * 2, offset)
        with volume.open("a") as file:
            file.read_list(reads, 1, 1)
            assert not memory.any()
            file.read_list(reads, 2, 299)
            for read, place in enumerate(offset[2:299].tolist(), 2):
                low = read * 12
                assert memory[low : low + 5].tobytes() == data[place : place + 5]
                assert memory[low + 6 : low + 10].tobytes() == data[place + 5 : place + 9]
            assert not memory[:24].any()
            assert not memory[299 * 12 :].any()
            offset[150] = 4995
            with pytest.raises(VolumeFailed):
                file.read_list(ReadList(pieces, np.arange(301) * 2, offset), 0, 300)

    def test_v6_threads_share_a_reader(self, volume: Volume) -> None:
        data = bytes(number % 251 for number in range(100_000))
        write_file(volume, "a", data)
        with volume.open("a") as file:

            def act(number: int) -> bool:
                spots = range(number * 997, 90_000, 9973)
                return all(file.read_at(at, 5000) == data[at : at + 5000] for at in spots)

            assert race(THREADS, act) == [True] * THREADS

    def test_v6_a_growing_file_can_be_read(self, volume: Volume) -> None:
        with volume.create("a") as file:
            file.write([b"x" * 100])

            def act(number: int) -> object:
                if not number:
                    return [file.write([b"x" * 1000]) for _ in range(200)] == [1000] * 200
                with volume.open("a") as reader:
                    return all(reader.read_at(0, 100) == b"x" * 100 for _ in range(200))

            assert race(4, act) == [True] * 4

    # V7

    @pytest.mark.parametrize(
        "act",
        [
            lambda volume: volume.open("a/none"),
            lambda volume: volume.stat("a/none"),
            lambda volume: volume.unlink("a/none"),
            lambda volume: [*volume.list("a/none")],
            lambda volume: volume.refresh("a/none"),
            lambda volume: volume.sync_directory("a/none"),
            lambda volume: volume.open("none/none"),
        ],
        ids=["open", "stat", "unlink", "list", "refresh", "sync_directory", "open below"],
    )
    def test_v7_what_is_missing_is_not_found(
        self, volume: Volume, act: Callable[[Volume], object]
    ) -> None:
        volume.make_directory("a")
        with pytest.raises(NotFound, match="none"):
            act(volume)

    def test_v7_a_closed_file_refuses_and_closes_again(self, volume: Volume) -> None:
        writer = volume.create("a")
        writer.write([b"x"])
        writer.close()
        writer.close()
        reader = volume.open("a")
        reader.close()
        reader.close()
        calls: list[Callable[[], object]] = [
            lambda: writer.write([b"x"]), writer.sync, writer.stat,
            lambda: reader.read_at(0, 1), lambda: reader.read_into(0, [memoryview(bytearray(1))]),
            reader.stat,
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(VolumeFailed):
                call()
        assert read_file(volume, "a") == b"x"

    def test_v7_a_file_is_no_directory(self, volume: Volume) -> None:
        write_file(volume, "a", b"")
        for act in (volume.make_directory, volume.create):
            with pytest.raises((Conflict, VolumeFailed)):
                act("a/b")
        with pytest.raises(Conflict):
            volume.make_directory("a")

    # the rest of the tree

    def test_a_listing_has_the_names_of_one_directory(self, volume: Volume) -> None:
        write_file(volume, "d/a", b"")
        write_file(volume, "d/sub/deep", b"")
        write_file(volume, "other", b"")
        assert {*volume.list("d")} == {Listed("a", False), Listed("sub", True)}
        assert {*volume.list("")} == {Listed("d", True), Listed("other", False)}
        volume.make_directory("empty")
        assert [*volume.list("empty")] == []

    def test_a_directory_may_be_there_already(self, volume: Volume) -> None:
        race(THREADS, lambda _: volume.make_directory("a/b/c"))
        volume.make_directory("a/b/c")
        volume.make_directory("a")
        assert [*volume.list("a/b")] == [Listed("c", True)]

    def test_an_unlinked_name_is_free_again(self, volume: Volume) -> None:
        write_file(volume, "a", b"old")
        volume.unlink("a")
        with pytest.raises(NotFound):
            volume.unlink("a")
        write_file(volume, "a", b"new")
        assert read_file(volume, "a") == b"new"

    def test_a_refresh_shows_what_is_new(self, volume: Volume) -> None:
        volume.make_directory("d")
        with pytest.raises(NotFound):
            volume.open("d/a")
        write_file(volume, "d/a", b"1")
        volume.refresh("d")
        assert read_file(volume, "d/a") == b"1"

    def test_there_is_room(self, volume: Volume) -> None:
        write_file(volume, "a", b"x" * 100)
        space = volume.space()
        assert 0 < space.free_bytes <= space.total_bytes

    def test_open_files_are_what_they_say(self, volume: Volume) -> None:
        writer: WritableFile
        reader: ReadableFile
        with volume.create("a") as writer, volume.open("a") as reader:
            assert writer.stat() == reader.stat() == volume.stat("a")

    # V8

    def test_v8_a_hint_changes_nothing_and_never_fails(self, volume: Volume) -> None:
        write_file(volume, "a", b"0123456789")
        reader = volume.open("a")
        with reader:
            answers = {reader.will_need([]), reader.will_need([(2, 3), (8, 100), (50, 1 << 40)])}
            assert len(answers) == 1
            assert answers <= {True, False}
            assert reader.read_at(2, 3) == b"234"
            assert 0 <= (reader.cached_share([(2, 3), (8, 1 << 40)]) or 0) <= 1
            volume.unlink("a")
            reader.will_need([(0, 10)])
        assert not reader.will_need([(0, 10)])
        assert reader.cached_share([(0, 10)]) is None

    # V9

    def test_v9_distrusted_bytes_come_again(self, volume: Volume) -> None:
        write_file(volume, "a", b"0123456789")
        with volume.open("a") as reader:
            assert reader.read_at(2, 3) == b"234"
            assert reader.distrust(2, 3) in (True, False)
            assert reader.read_at(2, 3) == b"234"
            assert reader.distrust(0, 10) in (True, False)
            assert reader.read_at(0, 10) == b"0123456789"
