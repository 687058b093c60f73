"""A window of the day is meant in a zone that the machine knows, or nothing is begun."""

from __future__ import annotations

import zoneinfo
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.cli.conftest import Run

COMMANDS = (("compact",), ("compactd", "--once"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("zone", ["Europe/Berln", ":Europe/Berln", "Europe", "/none/Berlin", "CE1"])
def test_a_zone_that_is_none_is_refused(
    command: tuple[str, ...], zone: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lake.create(tmp_path / "lake").close()
    name, *more = command
    monkeypatch.setenv("TZ", zone)
    done = run(name, tmp_path / "lake", *more, "--window", "22:00-06:00")
    assert (done.code, done.out) == (2, "")
    assert zone in done.err
    assert run(name, tmp_path / "lake", *more).code == 0


@pytest.mark.parametrize("zone", ["", "UTC", "CET-1CEST,M3.5.0,M10.5.0/3", "<+0330>-3:30"])
def test_a_zone_that_is_spelled_out_needs_no_file(
    zone: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lake.create(tmp_path / "lake").close()
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setenv("TZDIR", str(tmp_path))
    assert run("compact", tmp_path / "lake", "--window", "22:00-06:00").code == 0


def test_a_zone_is_looked_for_where_the_c_library_looks(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lake.create(tmp_path / "lake").close()
    (tmp_path / "zones/Here").mkdir(parents=True)
    (tmp_path / "zones/Here/Town").touch()
    words = ("compact", tmp_path / "lake", "--window", "22:00-06:00")
    monkeypatch.setenv("TZ", "Here/Town")
    assert run(*words).code == 2
    monkeypatch.setattr(zoneinfo, "TZPATH", ("/none", str(tmp_path / "zones")))
    assert run(*words).code == 0
    monkeypatch.setenv("TZDIR", str(tmp_path))
    assert run(*words).code == 2
    monkeypatch.setenv("TZ", str(tmp_path / "zones/Here/Town"))
    assert run(*words).code == 0
