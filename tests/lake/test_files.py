"""How many packs stay open, and that none does for good."""

from __future__ import annotations

import errno
import resource
import threading
import weakref

import pytest

from lakefeed.errors import VolumeFailed, from_os_error
from lakefeed.lake import files as files_module
from lakefeed.lake.files import OpenFiles, open_files_max
from lakefeed.volume.base import ReadableFile, write_file
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.metered import Meter, MeteredReadableFile, MeteredVolume
from tests.support.threads import Threads


@pytest.mark.parametrize(
    ("soft", "expected"),
    [(256, 256), (1024, 256), (65_536, 4096), (1 << 20, 8192), (resource.RLIM_INFINITY, 8192)],
)
def test_more_packs_stay_open_where_the_process_may_have_more(
    monkeypatch: pytest.MonkeyPatch, soft: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    assert open_files_max() == expected


def test_all_lakes_together_leave_half_of_the_descriptors_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    monkeypatch.setattr(files_module, "_everybody", weakref.WeakValueDictionary())
    inner, meter, threads = MemoryVolume(), Meter(), Threads()
    names = [f"{number}" for number in range(15)]
    for name in names:
        write_file(inner, name, name.encode())
    tables = [OpenFiles(MeteredVolume(inner, meter)) for _ in range(4)]
    for table in [*tables, *tables]:
        for name in names:
            assert table.read(name, lambda file: file.read_at(0, file.size)) == name.encode()
        assert sum(table.count for table in tables) <= 20
        assert threads.left() == []
        readings = meter.readings()
        closed = readings["close"].calls if "close" in readings else 0
        assert readings["open"].calls - closed <= 20


def test_who_opens_many_files_closes_those_that_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed_by = []

    class Noting(MeteredReadableFile):
        def close(self) -> None:
            closed_by.append(threading.current_thread())
            super().close()

    class Noted(MeteredVolume):
        def open(self, path: str) -> MeteredReadableFile:
            return Noting(self.inner.open(path), self.meter)

    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    monkeypatch.setattr(files_module, "_everybody", weakref.WeakValueDictionary())
    inner = MemoryVolume()
    table = OpenFiles(Noted(inner, Meter()))
    for number in range(100):
        write_file(inner, f"{number}", b"bytes")
        assert table.read(f"{number}", lambda file: file.read_at(0, 5)) == b"bytes"
        assert number + 1 - len(closed_by) == table.count <= 20
    assert {*closed_by} == {threading.current_thread()}


def test_a_volume_that_hangs_closes_its_files_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging(MeteredReadableFile):
        def close(self) -> None:
            assert answers.wait(60)
            super().close()
            raise VolumeFailed("close", found="no answer")

    class Sick(MeteredVolume):
        def open(self, path: str) -> MeteredReadableFile:
            return Hanging(self.inner.open(path), self.meter)

    monkeypatch.setattr(resource, "getrlimit", lambda _: (6, 6))
    monkeypatch.setattr(files_module, "_everybody", weakref.WeakValueDictionary())
    answers, threads, inner = threading.Event(), Threads(), MemoryVolume()
    names = ["a", "b", "c"]
    for name in names:
        write_file(inner, name, b"bytes")
    sick, well = OpenFiles(Sick(inner, Meter())), OpenFiles(inner)
    for table in (sick, well):
        for name in names:
            assert table.read(name, lambda file: file.read_at(0, 5)) == b"bytes"
    assert sick.count == 0
    answers.set()
    assert threads.left() == []


def test_an_idle_file_that_cannot_be_closed_fails_no_other_one() -> None:
    class Stuck(MeteredReadableFile):
        def close(self) -> None:
            super().close()
            raise VolumeFailed("close", found="no answer")

    class Sick(MeteredVolume):
        def open(self, path: str) -> MeteredReadableFile:
            return Stuck(self.inner.open(path), self.meter)

    inner = MemoryVolume()
    names = [f"{number}" for number in range(4)]
    for name in names:
        write_file(inner, name, name.encode())
    files = OpenFiles(Sick(inner, Meter()), limit=1)
    for name in names:
        assert files.read(name, lambda file: file.read_at(0, 1)) == name.encode()
        assert files.count == 1


class Narrow(MeteredVolume):
    """Opens so many files at a time and no more."""

    def __init__(self, inner: MemoryVolume, most: int) -> None:
        super().__init__(inner, Meter())
        self.most, self.open_now = most, 0
        self.refused, self.closing = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.waits = False

    def open(self, path: str) -> MeteredReadableFile:
        with self.lock:
            if self.open_now >= self.most:
                self.refused.set()
                raise from_os_error(OSError(errno.EMFILE, ""), path)
            self.open_now += 1
        return Narrowed(self.inner.open(path), self)


class Narrowed(MeteredReadableFile):
    def __init__(self, inner: ReadableFile, volume: Narrow) -> None:
        super().__init__(inner, volume.meter)
        self._volume = volume

    def close(self) -> None:
        if self._volume.waits:
            self._volume.closing.set()
            assert self._volume.refused.wait(60)
        super().close()
        with self._volume.lock:
            self._volume.open_now -= 1


def narrow(most: int, names: str) -> Narrow:
    inner = MemoryVolume()
    for name in names:
        write_file(inner, name, name.encode())
    return Narrow(inner, most)


def test_idle_files_make_room_where_the_process_has_no_descriptor_left() -> None:
    volume = narrow(3, "abcdefgh")
    files = OpenFiles(volume)
    for name in "abcdefgh" * 2:
        assert files.read(name, lambda file: file.read_at(0, 1)) == name.encode()
    with (
        files.use("a"), files.use("b"), files.use("c"), pytest.raises(VolumeFailed) as failure,
        files.use("d"),
    ):  # fmt: skip
        raise AssertionError
    assert "ulimit -n" in str(failure.value)
    files.close()
    assert volume.open_now == 0


def test_idle_files_of_another_table_make_room_where_the_own_one_has_none() -> None:
    volume, threads = narrow(3, "abcd"), Threads()
    lake, check = OpenFiles(volume), OpenFiles(volume)
    for name in "abc":
        assert lake.read(name, lambda file: file.read_at(0, 1)) == name.encode()
    with check.use("d") as file:
        assert file.read_at(0, 1) == b"d"
    assert threads.left() == []
    assert (lake.count, volume.open_now) == (0, 1)
    lake.close()
    check.close()


def test_what_is_being_closed_makes_room_for_who_waits() -> None:
    volume, threads = narrow(2, "abc"), Threads()
    files = OpenFiles(volume, limit=1)
    with files.use("a"):
        pass
    volume.waits = True  # whoever opens b closes a, but only when c was refused
    opener = threading.Thread(target=lambda: files.read("b", lambda file: file.size))
    opener.start()
    assert volume.closing.wait(60)
    assert files.read("c", lambda file: file.read_at(0, 1)) == b"c"
    opener.join()
    files.close()
    assert volume.open_now == 0
    assert threads.left() == []


class SlowToOpen(MeteredVolume):
    """Whoever lends its files closes them all while one is being opened."""

    lender: OpenFiles | None = None

    def open(self, path: str) -> MeteredReadableFile:
        file = super().open(path)
        if self.lender is not None:
            self.lender.close()
        return file


def test_what_is_asked_for_when_all_are_closed_is_not_kept_open() -> None:
    volume = SlowToOpen(MemoryVolume(), Meter())
    write_file(volume, "file", b"bytes")
    files = OpenFiles(volume)
    assert files.read("file", lambda file: file.read_at(0, 5)) == b"bytes"
    files.forget("file")
    volume.lender = files
    for _ in range(2):  # closed in the middle of opening, closed before
        assert files.read("file", lambda file: file.read_at(0, 5)) == b"bytes"
        assert not files.is_open("file")
    readings = volume.meter.readings()
    assert readings["open"].calls == 3
    assert readings["close"].calls == 3 + 1  # of what was written
