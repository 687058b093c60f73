"""Which attributes of a file a mount tells programs of."""

from __future__ import annotations

import errno
import stat
from unittest import mock

import pytest

from lakefeed import Lake
from lakefeed.volume.memory import MemoryVolume

pytest.importorskip("pyfuse3")

from pyfuse3 import FUSEError

from lakefeed.adapters.fuse.answers import attrs_with, listed_xattrs_of, xattrs_of
from lakefeed.adapters.fuse.nodes import ROOT, Node
from tests.fuse.scenes import Here, played


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


def test_a_file_takes_as_many_attributes_as_a_lake_keeps() -> None:
    node = mock.Mock(Node, draft=None, row=None)
    for number in range(15):
        node.draft = mock.Mock(attrs=attrs_with(node, f"user.{number:02d}", "x" * (1 << 16)))
    with pytest.raises(FUSEError) as refused:
        attrs_with(node, "user.15", "x" * (1 << 16))
    assert refused.value.errno == errno.ENOSPC


def test_a_mode_of_the_root_is_kept_in_memory_alone() -> None:
    async def scene(here: Here) -> None:
        await here.set_mode(ROOT)
        assert stat.S_IMODE((await here.operations.getattr(ROOT, None)).st_mode) == 0o600
        with pytest.raises(FUSEError) as refused:
            await here.operations.setxattr(ROOT, b"user.a", b"b", None)
        assert refused.value.errno == errno.EPERM
        assert here.pending.count == 0

    played(scene)
