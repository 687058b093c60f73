"""Which attributes of a file a mount tells programs of."""

from __future__ import annotations

from unittest import mock

import pytest

from lakefeed import Lake
from lakefeed.volume.memory import MemoryVolume

pytest.importorskip("pyfuse3")

from lakefeed.adapters.fuse.answers import listed_xattrs_of, xattrs_of
from lakefeed.adapters.fuse.nodes import Node


def test_no_attribute_is_listed_that_a_program_could_not_copy() -> None:
    fine = {"label": "1", "user.by": "us", "k" * 235: "x", "most": "x" * (1 << 16)}
    others = {"k" * 236: "x", "more": "x" * ((1 << 16) + 1), "": "x", "a\0b": "x",
              "user.lakefeed.other": "x"}  # fmt: skip
    with Lake.create(MemoryVolume()) as lake:
        with lake.writer() as writer:
            writer.put("f", b"", attrs={**fine, **others})
        row = lake.snapshot().stat("f")
    node = mock.Mock(Node, kind=row.kind, draft=None, dirty=False, row=row)
    names = {name if name == "user.by" else f"user.lakefeed.attrs.{name}" for name in fine}
    assert listed_xattrs_of(node) == sorted(names)
    assert xattrs_of(node)["user.lakefeed.other"] == "x"
