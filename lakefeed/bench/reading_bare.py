"""Bare reads of a lake's packs: the ceiling of whatever reads them through an index."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from lakefeed.bench.emulation import Pace
from lakefeed.bench.sources import Delivered, Spec
from lakefeed.lake.lake import Lake
from lakefeed.lake.layout import pack_path

BARE_BYTES = 2 << 20
BARE_THREADS = 4


class BareSource:
    """Large random reads of the packs' payloads: the limit of any reader of this lake."""

    def __init__(self, spec: Spec, pace: Pace | None) -> None:
        self._spec = spec
        self._pace = pace
        self._bytes = spec.batch_size * spec.sample_bytes
        self._read_bytes = self._reads = 0
        self._pieces: list[tuple[int, int, int]] = []
        self._descriptors: list[int] = []
        with Lake.open(spec.where) as lake:
            packs = lake.snapshot(spec.at).state.packs
        for pack, info in packs.items():
            descriptor = os.open(os.path.join(spec.where, pack_path(pack)), os.O_RDONLY)
            self._descriptors.append(descriptor)
            for offset in range(0, info.sealed.payload_end, BARE_BYTES):
                length = min(BARE_BYTES, info.sealed.payload_end - offset)
                self._pieces.append((descriptor, offset, length))
        self._buffers = deque(bytearray(BARE_BYTES) for _ in range(2 * BARE_THREADS))
        self._pool = ThreadPoolExecutor(BARE_THREADS, "lakefeed-bench-bare")

    def batches(self) -> Iterator[Delivered]:
        """Yield as often as the bytes of one batch have come in."""
        chance = random.Random(self._spec.reading.seed)
        ahead: deque[Future[int]] = deque()
        gathered = 0
        while True:
            chance.shuffle(self._pieces)
            for piece in self._pieces:
                ahead.append(self._pool.submit(self._read, piece))
                if len(ahead) < 2 * BARE_THREADS:
                    continue
                gathered += ahead.popleft().result()
                while gathered >= self._bytes:
                    gathered -= self._bytes
                    yield Delivered(self._spec.batch_size, self._bytes)

    def _read(self, piece: tuple[int, int, int]) -> int:
        descriptor, offset, length = piece
        buffer = self._buffers.popleft()
        if self._pace is not None:
            self._pace.call(length)
        done = os.preadv(descriptor, [memoryview(buffer)[:length]], offset)
        self._buffers.append(buffer)
        self._read_bytes += done
        self._reads += 1
        return done

    def read_bytes(self) -> int:
        """Return the bytes read; threads may have added at once, so nearly so."""
        return self._read_bytes

    def reads(self) -> int:
        """Return the read calls, nearly so."""
        return self._reads

    def close(self) -> None:
        """Stop reading and close the packs."""
        self._pool.shutdown(cancel_futures=True)
        while self._descriptors:
            os.close(self._descriptors.pop())
