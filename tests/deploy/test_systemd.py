"""The units for bare metal: systemd takes them, and they may do as little as they can do with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from lakefeed.cli.service_settings import ServiceSettings
from tests.deploy.test_commands import AS_OWNER
from tests.deploy.tools import DEPLOY, ROOT, tool
from tests.support.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

UNITS = DEPLOY / "systemd"
INSTANCE = "mnt-lakes-main"
# systemd's own scale: 0 is sealed, 10 is root with everything; 2 and less it calls OK.
EXPOSURE_MAX = 2.0


def analyze(*arguments: str, units: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:", "SYSTEMD_COLORS": "0"}
    return subprocess.run(
        [tool("systemd-analyze", "Debian systemd"), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE_SECONDS,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as on a machine, with the program where this environment has one."""
    for path in UNITS.iterdir():
        if path.suffix in {".service", ".timer", ".mount"}:
            text = path.read_text(encoding="utf-8")
            text = text.replace("/opt/lakefeed/bin/lakefeed", sys.executable)
            name = path.name.replace("@.", f"@{INSTANCE}.")
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def services() -> list[Path]:
    return sorted(UNITS.glob("*.service"))


def section(path: Path, name: str) -> dict[str, str]:
    parser = ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path, encoding="utf-8")
    return dict(parser[name])


def test_systemd_accepts_every_unit(installed: Path) -> None:
    names = [path.name for path in sorted(installed.iterdir())]
    assert len(names) >= 7
    done = analyze("verify", *names, units=installed)
    ours = [line for line in done.stderr.splitlines() if str(installed) in line or "@" in line]
    assert (done.returncode, ours) == (0, [])


def test_a_broken_unit_is_noticed(installed: Path) -> None:
    unit = installed / f"lakefeed-gc@{INSTANCE}.service"
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=very"))
    done = analyze("verify", unit.name, units=installed)
    assert "very" in done.stderr


def test_services_may_do_little(installed: Path) -> None:
    # A mount must be made where everybody sees it, so its daemon cannot be shut in.
    for path in (path for path in services() if "mount" not in path.name):
        name = path.name.replace("@.", f"@{INSTANCE}.")
        done = analyze("security", "--offline=true", "--no-pager", str(installed / name),
                       units=installed)  # fmt: skip
        found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
        assert found, done.stdout + done.stderr
        assert float(found[1]) <= EXPOSURE_MAX, f"{name}\n{done.stdout}"


def test_services_wait_for_their_volume_and_run_as_its_owner() -> None:
    for path in services():
        if "mount" not in path.name:  # whose instance is the mount point
            assert section(path, "Unit")["RequiresMountsFor"] == "%f", path.name
        assert section(path, "Service")["User"] == "lakefeed", path.name


def test_a_timer_starts_a_service_that_is_there() -> None:
    timers = sorted(UNITS.glob("*.timer"))
    assert {path.name.split("@")[0] for path in timers} == {"lakefeed-gc", "lakefeed-scrub"}
    for path in timers:
        assert path.with_suffix(".service").exists()
        assert section(path, "Timer")["Persistent"] == "yes"


def test_a_mount_unit_is_named_after_its_path() -> None:
    mounts = sorted(UNITS.glob("*.mount"))
    assert [path.name for path in mounts] == ["mnt-lakes.mount", "srv-lake.mount"]
    for path in mounts:
        where = section(path, "Mount")["Where"]
        assert path.stem == where.strip("/").replace("/", "-")


def test_what_is_one_lakes_alone_is_not_in_the_settings_of_all() -> None:
    shared = (UNITS / "compactd.toml").read_text(encoding="utf-8")
    names = {line.split("=")[0].strip() for line in shared.splitlines() if line[:1].isalpha()}
    assert names <= {field.replace("_", "-") for field in ServiceSettings.model_fields}
    assert names & {"lakes", "inbox", "listen"} == set()
    own = (UNITS / "lakefeed-compactd.env").read_text(encoding="utf-8")
    given = {line.split("=")[0] for line in own.splitlines() if line and not line.startswith("#")}
    assert given == {"LAKEFEED_INBOX", "LAKEFEED_LISTEN"}
    unit = (UNITS / "lakefeed-compactd@.service").read_text(encoding="utf-8")
    assert "EnvironmentFile=-/etc/lakefeed/compactd-%i.env" in unit


def test_the_manual_makes_lake_and_inbox_as_their_owner_before_the_service_starts() -> None:
    """What root makes, the service cannot write to; a directory that is missing when it starts is
    read-only to it for as long as it runs."""
    manual = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    (block,) = [
        block.splitlines()
        for block in re.findall(r"^```sh\n(.*?)^```", manual, re.M | re.S)
        if "systemd-sysusers" in block
    ]
    begin = next(n for n, line in enumerate(block) if "lakefeed-compactd@" in line)
    own = (UNITS / "lakefeed-compactd.env").read_text(encoding="utf-8")
    inbox = re.findall(r"^LAKEFEED_INBOX=([^=\n]+)", own, re.M)[0]
    assert f"runuser -u lakefeed -- mkdir -p {inbox}" in block[:begin]
    assert f"{AS_OWNER}lakefeed create /mnt/lakes/main" in block[:begin]
    assert not [line for line in block if line.startswith("lakefeed ")]
    (owner,) = re.findall(r"^u lakefeed (\d+)", (UNITS / "lakefeed.sysusers").read_text(), re.M)
    assert any(f"chown {owner}:{owner} /export/lakes" in line for line in block[:begin])


def test_every_line_of_the_fstab_example_is_complete() -> None:
    text = (UNITS / "fstab.example").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    assert [fields[2] for fields in lines] == ["nfs", "fuse.lakefeed"]
    for fields in lines:
        assert len(fields) == 6
        assert "_netdev" in fields[3].split(",")
