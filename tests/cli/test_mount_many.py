"""A mount of a federation of very many lakes starts some daemons at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from lakefeed.cli.mount_daemon import Daemons
from lakefeed.cli.mount_federation import STARTING_MAX, Wanted, mount_federation
from lakefeed.lake.mounts import Mount, checked, save
from lakefeed.volume.posix import PosixVolume

LAKES = 3 * STARTING_MAX


class Starting:
    """A daemon that is up, or has failed, once it is waited for."""

    def __init__(self, number: int, under_way: set[int], most: list[int]) -> None:
        self._number, self._under_way = number, under_way
        under_way.add(number)
        most.append(len(under_way))

    def wait(self) -> int:
        self._under_way.remove(self._number)
        return 6 if self._number in (5, LAKES - 1) else 0


def test_daemons_start_some_at_a_time_and_each_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    under_way: set[int] = set()
    most: list[int] = []

    def begin(running: Daemons, *_: object, **__: object) -> None:
        running.append(Starting(len(running), under_way, most))  # type: ignore[arg-type]

    monkeypatch.setattr(Daemons, "begin", begin)
    mounts = [Mount(f"m{number:03d}", f"{tmp_path}/l{number}") for number in range(LAKES)]
    save(PosixVolume(tmp_path), "all.json", checked(mounts))
    (tmp_path / "mnt").mkdir()
    wanted = Wanted([], None, writable=False, log=None)
    with pytest.raises(typer.Exit) as ended:
        mount_federation(str(tmp_path / "all.json"), str(tmp_path / "mnt"), wanted, None)
    assert ended.value.exit_code == 6
    assert (len(most), max(most), under_way) == (LAKES, STARTING_MAX, set())
    assert f"{LAKES - 2} of {LAKES} lakes are mounted" in capsys.readouterr().err
