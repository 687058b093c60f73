"""Opens what a `Spec` describes, inside the rank that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lakefeed.bench.emulation import Pace
from lakefeed.bench.reading_archives import ArchiveSource
from lakefeed.bench.reading_bare import BareSource
from lakefeed.bench.reading_files import PlainSource
from lakefeed.bench.reading_lake import LakeSource
from lakefeed.bench.sources import KINDS, NullSource, Source, Spec
from lakefeed.errors import Invalid


@contextmanager
def opened(spec: Spec, rank: int, shared: Any = None) -> Iterator[Source]:
    """Lend a source to one rank; `shared` is `emulation.shared_state` where there are delays."""
    source = _open(spec, rank, None if spec.delays is None else Pace(spec.delays, shared))
    try:
        yield source
    finally:
        source.close()


def _open(spec: Spec, rank: int, pace: Pace | None) -> Source:
    if spec.kind == "null":
        return NullSource(spec)
    if spec.kind == "lake":
        return LakeSource(spec, rank, pace)
    if spec.kind == "bare":
        return BareSource(spec, pace)
    if spec.kind in ("plain", "mount"):
        return PlainSource(spec, rank, pace)
    if spec.kind in ("tfrecord", "webdataset"):
        return ArchiveSource(spec, rank, pace)
    raise Invalid("source", expected=", ".join(KINDS), found=spec.kind)
