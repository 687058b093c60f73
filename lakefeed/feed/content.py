"""A checksum of which files a selection holds: their paths, and the checksums of their bytes.

The lengths, the text and the checksums each have a running sum, so it does not matter in which
pieces the rows arrive, nor in which packs or segments they lie.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lakefeed.format import bridge
from lakefeed.format.checksum import crc32c


class Content:
    """Sums up rows in the order of their numbers."""

    def __init__(self) -> None:
        self._lengths = 0
        self._text = 0
        self._checksums = 0

    def add(self, paths: pa.ChunkedArray, checksums: pa.ChunkedArray) -> None:
        """Go on with these rows."""
        for chunk in paths.cast(pa.large_string()).chunks:
            _, offsets, text = chunk.buffers()
            bounds = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            self._lengths = crc32c(np.diff(bounds).tobytes(), self._lengths)
            if text is not None and len(bounds):
                held = memoryview(text)[int(bounds[0]) : int(bounds[-1])]
                self._text = crc32c(held, self._text)
        words = np.ascontiguousarray(bridge.to_numpy(checksums), np.uint32)
        self._checksums = crc32c(words.tobytes(), self._checksums)

    @property
    def digest(self) -> str:
        """The sum so far, in eight digits."""
        words = (self._lengths, self._text, self._checksums)
        return f"{crc32c(b''.join(word.to_bytes(4, 'little') for word in words)):08x}"
