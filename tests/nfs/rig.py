"""Boot a User-Mode Linux guest with a real NFS server and two real NFS clients, and run a program.

The guest's kernel is an ordinary process of the host; its root file system is the host's own,
read-only, so the project's interpreter and code run in there as they stand. The program sees a
`world` (guest/world.py): server, clients, disk, all with knobs. What it returns comes back as
JSON. A guest that hangs is killed after `Options.timeout_seconds`; one that fails raises
`GuestFailed` with the traceback from inside.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
GUEST = HERE / "guest"
REGISTERS = HERE / "registers.py"
MODULES = Path("/usr/lib/uml/modules")
TOOLS = (
    *("linux.uml", "rpc.nfsd", "rpc.mountd", "nfsdcld", "exportfs", "rpcbind", "mount.nfs"),
    *("modprobe", "ip", "tc", "nsenter", "dmsetup", "mkfs.ext4"),
)
PACKAGES = "user-mode-linux nfs-kernel-server nfs-common rpcbind kmod iproute2 dmsetup e2fsprogs"
DISK_BYTES = 192 << 20
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class GuestFailed(AssertionError):
    """The program in the guest raised, hung or vanished; the message holds what it left."""


@dataclass(frozen=True)
class Options:
    """The knobs of one boot.

    `vers` is "3" or "4.2"; `mount_options` are added to the defaults (hard, default caching).
    `export` is "tmpfs" or "ext4" (on device-mapper, for faults), `export_options` are added to
    `sync`. `delay_ms` and `loss_percent` shape what a client sends, by name: {"c1": 5.0}.
    With `mount=False` the program mounts by itself, for instance through a relay.
    """

    vers: str = "4.2"
    mount_options: str = ""
    export: str = "tmpfs"
    export_options: str = ""
    delay_ms: Mapping[str, float] = field(default_factory=dict)
    loss_percent: Mapping[str, float] = field(default_factory=dict)
    mount: bool = True
    memory_mib: int = 1024
    timeout_seconds: float = 120

    def settings(self) -> dict[str, Any]:
        """Return the part that the guest needs."""
        return {
            "vers": self.vers,
            "mount_options": self.mount_options,
            "export": self.export,
            "export_options": self.export_options,
            "delay_ms": dict(self.delay_ms),
            "loss_percent": dict(self.loss_percent),
            "mount": self.mount,
        }


@dataclass(frozen=True)
class Result:
    """What came back: the program's value, and where the seconds went."""

    value: Any
    up_seconds: float
    guest_seconds: float
    host_seconds: float
    console: str


def why_not(scratch: Path) -> str | None:
    """Return why this machine cannot run the rig, or None. Boots a bare kernel to find out."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"needs Linux on x86_64, this is {platform.system()} on {platform.machine()}"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=SEARCH) is None]
    if missing or not MODULES.is_dir():
        return f"{missing or MODULES} not found: apt-get install {PACKAGES}"
    if os.geteuid() != 0:
        return "needs root: the guest reads the host's root file system"
    up, console = _run(scratch, {}, timeout_seconds=30)
    if not up or not (scratch / "up").exists():
        return f"User-Mode Linux does not start here: {console.strip()[-300:]}"
    return None


def boot(program: Path, scratch: Path, options: Options, *args: Any) -> Result:
    """Run `main(world, *args)` of the program in a fresh guest and return its answer.

    `scratch` is an empty folder of the host that the guest may write to (as /run/host).
    """
    config = {
        "program": program.stem,
        "args": args,
        "settings": options.settings(),
        "path": [str(program.resolve().parent), str(REPO)],
    }
    (scratch / "config.json").write_text(json.dumps(config))
    if options.export != "tmpfs":
        with open(scratch / "disk.img", "wb") as disk:
            disk.truncate(DISK_BYTES)
    kernel = {
        "mem": f"{options.memory_mib}M",
        "RIG_PYTHON": sys.executable,
        "RIG_MAIN": str(GUEST / "main.py"),
    }
    started = time.monotonic()
    ended, console = _run(scratch, kernel, options.timeout_seconds)
    if not ended and not (scratch / "running").exists():
        # Now and then a guest hangs before its program begins; that says nothing of the program.
        ended, console = _run(scratch, kernel, options.timeout_seconds)
    host_seconds = time.monotonic() - started
    (scratch / "console.txt").write_text(console)
    answer_file = scratch / "result.json"
    if not answer_file.exists():
        why = "vanished" if ended else f"was killed after {options.timeout_seconds} s"
        raise GuestFailed(f"{program.name}: the guest {why}; its console ends:\n{console[-4000:]}")
    answer = json.loads(answer_file.read_text())
    if answer["failure"]:
        raise GuestFailed(f"{program.name} in the guest:\n{answer['failure']}\n{console[-2000:]}")
    return Result(answer["value"], answer["up_seconds"], answer["seconds"], host_seconds, console)


def _has_tiles() -> bool:
    """Tell whether the processor has more registers than the guest's kernel can keep."""
    return "amx_tile" in Path("/proc/cpuinfo").read_text().split()


def _numpy_dispatches() -> list[str]:
    """Return the processor's features that numpy uses where they are."""
    known: Any = np.show_config(mode="dicts")
    found: list[str] = known["SIMD Extensions"]["found"]
    return found


def _run(scratch: Path, kernel: Mapping[str, str], timeout_seconds: float) -> tuple[bool, str]:
    """Run one guest to its end; return whether it ended by itself, and its console."""
    words = {
        "mem": "256M",
        "root": "/dev/root",
        "rootfstype": "hostfs",
        "rootflags": "/",
        "init": str(GUEST / "init.sh"),
        "con": "null",
        "con0": "null,fd:1",
        "RIG_OUT": str(scratch),
        **kernel,
    }
    launcher: list[str] = []
    if _has_tiles():
        launcher = [sys.executable, str(REGISTERS)]
        words["RIG_NUMPY_WITHOUT"] = ",".join(_numpy_dispatches())
    if (scratch / "disk.img").exists():
        words["ubd0"] = str(scratch / "disk.img")
    command = ["linux.uml", "ro", "quiet", *(f"{key}={value}" for key, value in words.items())]
    assert not any(" " in word for word in command), f"a kernel word holds a space: {command}"
    command = launcher + command
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(scratch)
    # Its own session, so that one kill ends every host process the guest's kernel made.
    guest = subprocess.Popen(
        command,
        env={"PATH": SEARCH, "TMPDIR": shared, "HOME": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = guest.communicate(timeout=timeout_seconds)
        ended = True
    except subprocess.TimeoutExpired:
        ended = False
        os.killpg(guest.pid, signal.SIGKILL)
        output, _ = guest.communicate()
    return ended, output.decode(errors="replace")
