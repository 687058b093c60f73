"""The exerciser notices a file that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuse.fsx import Difference, Exerciser


def test_it_passes_on_a_plain_file(tmp_path: Path) -> None:
    Exerciser(str(tmp_path / "file"), seed=1).run(500)


def test_it_notices_a_changed_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def wrong(fd: int, data: bytes, offset: int) -> int:
        return real(fd, bytes([data[0] ^ 1]) + data[1:], offset)

    monkeypatch.setattr(os, "pwrite", wrong)
    with pytest.raises(Difference, match="seed 1"):
        Exerciser(str(tmp_path / "file"), seed=1).run(500)
