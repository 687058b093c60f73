"""`mount -t fuse.lakefeed`: what mount(8) says becomes the command line that was meant."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

from lakefeed.cli.mount_helper import request_of
from tests.deploy.test_commands import complaint
from tests.deploy.tools import DEPLOY, ROOT
from tests.support.patience import PATIENCE_SECONDS

PLACES = ["/lake", "/srv/lake"]


def python(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program, which finds the package, to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True,
                          timeout=PATIENCE_SECONDS, env=environment)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("rw", ["--rw"]),
        ("rw,ro", []),
        ("ro,_netdev,x-systemd.requires-mounts-for=/mnt,nofail,sync", []),
        ("rw,allow_other", ["--rw", "--allow-other"]),
        ("ro,user,noexec,nosuid,nodev", ["--noexec"]),
        # mount(8) adds rw by itself, and a snapshot cannot be written.
        ("rw,at=v1", ["--at=v1"]),
        ("ro,cache=1GiB,listen=127.0.0.1:9470", ["--cache=1GiB", "--listen=127.0.0.1:9470"]),
        ("ro,sync=close,commit_age=2s,spool_size=1GiB,log_level=info",
         ["--sync=close", "--commit-age=2s", "--spool-size=1GiB", "--log-level=info"]),
    ],
)  # fmt: skip
def test_options_become_flags(options: str, words: list[str]) -> None:
    request = request_of([*PLACES, "-n", "-v", "-o", options, "-t", "fuse.lakefeed"])
    assert request.arguments == ["mount", *PLACES, *words]
    assert request.unknown == ()
    assert complaint(request.arguments) is None


@pytest.mark.slow
def test_an_option_that_nobody_knows_is_an_error() -> None:
    assert request_of([*PLACES, "-o", "ro,cash=1GiB"]).unknown == ("cash=1GiB",)
    done = python("-m", "lakefeed.cli.mount_helper", *PLACES, "-o", "ro,cash=1GiB")
    assert done.returncode == 1
    assert "cash=1GiB" in done.stderr


def test_a_dry_run_is_recognised() -> None:
    assert request_of([*PLACES, "-f", "-o", "ro"]).pretend
    assert request_of([*PLACES, "-sfn", "-o", "ro"]).pretend
    assert not request_of([*PLACES, "-o", "ro"]).pretend


def examples() -> list[str]:
    """The options of the mount unit and of the line in fstab."""
    found = []
    for unit in (DEPLOY / "systemd").glob("*.mount"):
        text = unit.read_text(encoding="utf-8")
        if "Type=fuse.lakefeed" in text:
            found += [ln[8:] for ln in text.splitlines() if ln.startswith("Options=")]
    fstab = (DEPLOY / "systemd" / "fstab.example").read_text(encoding="utf-8")
    return found + [line.split()[3] for line in fstab.splitlines() if "fuse.lakefeed" in line]


def test_the_examples_are_understood_and_do_not_run_as_root() -> None:
    assert len(examples()) == 2
    for options in examples():
        request = request_of([*PLACES, "-o", options])
        assert request.unknown == ()
        assert request.user == "lakefeed"
        assert complaint(request.arguments) is None


@pytest.mark.slow
@pytest.mark.root
def test_setuid_gives_up_root_for_good() -> None:
    program = (
        "import os; from lakefeed.cli.mount_helper import become; become('nobody'); "
        "print(os.getresuid(), os.getresgid(), os.getgroups())"
    )
    done = python("-c", program)
    nobody = pwd.getpwnam("nobody")
    user, group = (nobody.pw_uid,) * 3, (nobody.pw_gid,) * 3
    assert done.stdout.strip() == f"{user} {group} {[nobody.pw_gid]}", done.stderr


@pytest.mark.slow
def test_an_unknown_user_is_named() -> None:
    done = python("-m", "lakefeed.cli.mount_helper", *PLACES, "-o", "setuid=nobody-at-all")
    assert done.returncode == 1
    assert "nobody-at-all" in done.stderr
