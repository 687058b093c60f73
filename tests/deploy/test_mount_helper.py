"""`mount -t fuse.lakefeed`: what mount(8) says becomes the command line that was meant."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.test_commands import complaint
from tests.deploy.tools import DEPLOY

pytestmark = pytest.mark.slow

HELPER = DEPLOY / "systemd" / "mount.fuse.lakefeed"


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A program that prints its arguments, one a line."""
    program = tmp_path / "lakefeed"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return program


def helper(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(HELPER), "/lake", "/srv/lake", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "LAKEFEED": str(program)},
        timeout=60,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("rw", []),
        ("ro,_netdev,x-systemd.requires-mounts-for=/mnt", []),
        ("rw,write,allow_other", ["--rw", "--allow-other"]),
        ("at=v1,cache=1GiB,listen=127.0.0.1:9470",
         ["--at=v1", "--cache=1GiB", "--listen=127.0.0.1:9470"]),
        ("sync=close,commit_age=2s,spool_size=1GiB,log_level=info",
         ["--sync=close", "--commit-age=2s", "--spool-size=1GiB", "--log-level=info"]),
    ],
)  # fmt: skip
def test_options_become_flags(echo: Path, options: str, words: list[str]) -> None:
    done = helper(echo, "-o", options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["mount", "/lake", "/srv/lake", *words]
    said = complaint(done.stdout.splitlines())
    if said and "no command" in said:
        pytest.skip("lakefeed mount is not in the program yet")
    assert said is None


def test_an_option_that_nobody_knows_is_an_error(echo: Path) -> None:
    done = helper(echo, "-o", "ro,cash=1GiB")
    assert done.returncode != 0
    assert "cash=1GiB" in done.stderr
    assert done.stdout == ""


def test_a_dry_run_mounts_nothing(echo: Path) -> None:
    done = helper(echo, "-f", "-o", "ro")
    assert (done.returncode, done.stdout) == (0, "")


def test_every_option_of_the_examples_is_known(echo: Path) -> None:
    units = (DEPLOY / "systemd").glob("*.mount")
    options = [
        line.removeprefix("Options=")
        for unit in units
        if "fuse.lakefeed" in (text := unit.read_text(encoding="utf-8"))
        for line in text.splitlines()
        if line.startswith("Options=")
    ]
    fstab = (DEPLOY / "systemd" / "fstab.example").read_text(encoding="utf-8")
    options += [line.split()[3] for line in fstab.splitlines() if "fuse.lakefeed" in line]
    assert len(options) == 2
    for text in options:
        without = ",".join(word for word in text.split(",") if not word.startswith("setuid="))
        assert without != text, "root is nobody behind root_squash"
        assert helper(echo, "-o", without).returncode == 0
