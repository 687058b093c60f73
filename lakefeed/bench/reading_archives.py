"""TFRecord and WebDataset shards as a rank's source: read front to back, several at a time.

Each thread reads one shard in large sequential reads and cuts it into samples; batches are filled
from several shards in turns, which is the order those formats offer. Shards are dealt to the ranks
like cards; when they are used up, another epoch begins. TFRecord frames are checked by both of
their checksums, as TensorFlow does; of a tar, members are samples (`.cls` and the like beside a
sample are passed over).
"""

from __future__ import annotations

import io
import os
import queue
import random
import struct
import tarfile
import threading
from collections.abc import Iterator

from lakefeed.bench.emulation import Pace
from lakefeed.bench.reading_files import Disk, find_files
from lakefeed.bench.sources import Delivered, Spec
from lakefeed.errors import Corrupt, Invalid
from lakefeed.format.checksum import crc32c

SUFFIXES = {"tfrecord": ".tfrecord", "webdataset": ".tar"}
# One read of the kernel's NFS client; TensorFlow's own buffer is 256 KiB, tar's readers have less.
READ_BYTES = 1 << 20
# Samples that wait for the consumer, for each thread, where no `prefetch` says how many batches do.
READY_MAX = 64
_POLL_SECONDS = 0.2


class ArchiveSource:
    """Samples cut out of shards by threads."""

    def __init__(self, spec: Spec, rank: int, pace: Pace | None) -> None:
        self._spec = spec
        self._disk = Disk(pace)
        shards = find_files(spec.where, SUFFIXES[spec.kind])
        self._mine = shards[rank :: spec.world_size]
        if len(shards) < spec.world_size:
            raise Invalid(
                f"shards below {spec.where}",
                expected=f"one or more for each of {spec.world_size} ranks",
                found=len(shards),
                hint='export smaller shards with "lakefeed export --shard-size"',
            )
        reading = spec.reading
        self._count = min(reading.read_threads, len(self._mine))
        self.ready_max = READY_MAX
        if reading.prefetch is not None:
            self.ready_max = -(-reading.prefetch * spec.batch_size // self._count)
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def batches(self) -> Iterator[Delivered]:
        """Yield batches filled from the shards in turns."""
        count = self._count
        ready: list[queue.Queue[bytes | BaseException]] = []
        for number in range(count):
            lane: queue.Queue[bytes | BaseException] = queue.Queue(self.ready_max)
            thread = threading.Thread(
                target=self._fill, args=(number, count, lane), name="lakefeed-bench-shard"
            )
            ready.append(lane)
            self._threads.append(thread)
            thread.start()
        turn = 0
        while True:
            batch = []
            for _ in range(self._spec.batch_size):
                sample = ready[turn % count].get()
                turn += 1
                if isinstance(sample, BaseException):
                    raise sample
                batch.append(sample)
            yield Delivered(len(batch), sum(map(len, batch)), batch)

    def _fill(self, number: int, count: int, lane: queue.Queue[bytes | BaseException]) -> None:
        chance = random.Random(self._spec.reading.seed + number)
        mine = self._mine[number::count]
        cut = tfrecord_samples if self._spec.kind == "tfrecord" else tar_samples
        try:
            while not self._closed.is_set():
                if self._spec.reading.shuffle is not None:
                    chance.shuffle(mine)
                samples = 0
                for path in mine:
                    with Sequential(self._disk, path) as shard:
                        for sample in cut(shard, path):
                            if not self._put(lane, sample):
                                return
                            samples += 1
                if not samples:
                    found = f"none in {len(mine)} shards"
                    raise Corrupt(mine[0], expected="a sample or more", found=found)
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            self._put(lane, error)

    def _put(self, lane: queue.Queue[bytes | BaseException], sample: bytes | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                lane.put(sample, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def read_bytes(self) -> int:
        """Return the bytes read so far."""
        return self._disk.read_bytes

    def reads(self) -> int:
        """Return the read calls so far."""
        return self._disk.reads

    def close(self) -> None:
        """Stop the threads and wait for them."""
        self._closed.set()
        for thread in self._threads:
            thread.join()


class Sequential(io.RawIOBase):
    """A file read front to back in large pieces; small reads are served from the last one."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._descriptor = disk.open(path)
        self._offset = 0
        self._buffer = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return exactly `size` bytes, or what is left of the file."""
        parts = []
        while size:
            if not self._buffer:
                piece = self._disk.read(self._descriptor, self._offset, READ_BYTES)
                if not piece:
                    break
                self._offset += len(piece)
                self._buffer = memoryview(piece)
            part = self._buffer[:size]
            self._buffer = self._buffer[len(part) :]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def tfrecord_samples(shard: Sequential, path: str) -> Iterator[bytes]:
    """Yield the records of a TFRecord file; Corrupt for one whose checksum does not fit."""
    while head := shard.read(12):
        if len(head) < 12:
            raise Corrupt(path, expected="a record", found=f"{len(head)} bytes at the end")
        length, length_crc = struct.unpack("<QI", head)
        if masked(head[:8]) != length_crc:
            raise Corrupt(path, expected="a record's length", found="another checksum")
        data = shard.read(length)
        tail = shard.read(4)
        if len(tail) < 4 or masked(data) != struct.unpack("<I", tail)[0]:
            raise Corrupt(path, expected=f"a record of {length} bytes", found="another checksum")
        yield data


def masked(data: bytes) -> int:
    """Return TFRecord's masked CRC-32C."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def tar_samples(shard: Sequential, path: str) -> Iterator[bytes]:
    """Yield the first member of each WebDataset sample; Corrupt for what is no whole tar."""
    last = None
    try:
        with tarfile.open(fileobj=shard, mode="r|", bufsize=READ_BYTES) as tar:
            for member in tar:
                parent, _, base = member.name.rpartition("/")
                key = (parent, base.split(".", 1)[0])
                if not member.isreg() or key == last:
                    continue
                last = key
                file = tar.extractfile(member)
                assert file is not None, "a regular member has bytes"
                yield file.read()
    except tarfile.TarError as error:
        raise Corrupt(path, expected="a tar archive", found=str(error)) from error
