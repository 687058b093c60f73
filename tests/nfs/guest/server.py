"""The kernel NFS server of the guest, and the disk its export may live on.

The export is a tmpfs (fast, forgets) or ext4 on a device-mapper table over the guest's block
device, so that a test can lose what was never flushed (`Server.power_cut`) or make the disk
fail (`Disk.become`). The server is started with a short lease so that a restart is quick.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from tools import sh

EXPORT = Path("/run/export")
NFSD = Path("/proc/fs/nfsd")
EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
EXT4_SHUTDOWN_NOLOGFLUSH = 2


@dataclass
class Disk:
    """ext4 on a device-mapper device whose table can be exchanged while it is in use."""

    sectors: int

    @classmethod
    def make(cls) -> Disk:
        """Build the device over the guest's block device and put ext4 on it."""
        sh("modprobe", "-d", "/run/modules", "-a", "dm-mod")
        sectors = int(sh("blockdev", "--getsz", "/dev/ubda"))
        table = f"0 {sectors} linear /dev/ubda 0"
        sh("dmsetup", "--noudevsync", "create", "export", "--table", table)
        sh("dmsetup", "mknodes")
        sh("mkfs.ext4", "-q", "-O", "^resize_inode", "/dev/mapper/export")
        return cls(sectors)

    def become(self, target: str) -> None:
        """Exchange the table: "linear", "flakey" (writes are dropped) or "delay MS"."""
        tables = {
            "linear": f"0 {self.sectors} linear /dev/ubda 0",
            "flakey": f"0 {self.sectors} flakey /dev/ubda 0 0 3600 1 drop_writes",
            "error": f"0 {self.sectors} flakey /dev/ubda 0 0 3600 1 error_writes",
        }
        if target.startswith("delay "):
            table = f"0 {self.sectors} delay /dev/ubda 0 {target.split()[1]}"
        else:
            table = tables[target]
        kind = table.split()[2]
        if kind != "linear":
            sh("modprobe", "-d", "/run/modules", f"dm-{kind}")
        sh("dmsetup", "--noudevsync", "suspend", "--noflush", "--nolockfs", "export")
        sh("dmsetup", "--noudevsync", "reload", "export", "--table", table)
        sh("dmsetup", "--noudevsync", "resume", "export")

    def mount(self) -> None:
        sh("mount", "-t", "ext4", "/dev/mapper/export", str(EXPORT))

    def lose_unflushed(self) -> None:
        """Stop the file system as a power cut does: the journal is not flushed."""
        fd = os.open(EXPORT, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_SHUTDOWN_NOLOGFLUSH))
        finally:
            os.close(fd)


@dataclass
class Server:
    """nfsd with one export. `stop` and `start` lose what a reboot loses, the files stay."""

    disk: Disk | None = None
    options: str = ""
    threads: int = 8

    def prepare(self) -> None:
        """Make the export and start nfsd and the daemons that live as long as the guest."""
        for folder in (EXPORT, Path("/run/nfs/nfsdcld"), Path("/run/rpc_pipefs")):
            folder.mkdir(parents=True)
        sh("mount", "--bind", "/run/nfs", "/var/lib/nfs")
        for name in ("etab", "rmtab"):
            Path("/var/lib/nfs", name).touch()
        sh("mount", "-t", "nfsd", "nfsd", str(NFSD))
        if self.disk is None:
            sh("mount", "-t", "tmpfs", "export", str(EXPORT))
        else:
            self.disk.mount()
        EXPORT.chmod(0o777)
        # It remembers the clients across restarts, so that a grace period ends with the last one
        # that has reclaimed its open files. Without it nfsd waits: a second now, ten at a restart.
        sh("mount", "-t", "rpc_pipefs", "sunrpc", "/run/rpc_pipefs")
        sh("nfsdcld", "--pipefsdir", "/run/rpc_pipefs", "--storagedir", "/run/nfs/nfsdcld")
        # nfsd refuses to serve v3 without a portmapper to register with.
        sh("rpcbind", "-w")
        sh("rpc.mountd", "--port", "20048")
        self.start()
        self.end_grace()  # nobody has anything to reclaim from a server that was never up

    def start(self) -> None:
        options = "rw,no_root_squash,insecure,no_subtree_check,fsid=0,sync"
        if self.options:
            options += f",{self.options}"
        for net in ("10.0.1.0/24", "10.0.2.0/24", "127.0.0.1"):
            sh("exportfs", "-i", "-o", options, f"{net}:{EXPORT}")
        sh("rpc.nfsd", "--grace-time", "10", "--lease-time", "10", str(self.threads))

    def stop(self) -> None:
        """Stop all threads: connections, sessions and the duplicate request cache are gone."""
        sh("rpc.nfsd", "0")

    def restart(self) -> None:
        """Come back as after a reboot, disk unharmed; clients reclaim what they had open."""
        self.stop()
        self.start()

    def end_grace(self) -> None:
        """Do not wait for clients to reclaim opens and locks."""
        for grace in (NFSD / "v4_end_grace", Path("/proc/fs/lockd/nlm_end_grace")):
            try:
                grace.write_text("Y")
            except OSError as error:
                if error.errno != errno.EBUSY:  # it is over already
                    raise

    def power_cut(self) -> None:
        """Lose all that was not flushed to the disk, then come back."""
        assert self.disk is not None, "a power cut needs an export on ext4"
        self.stop()
        self.disk.lose_unflushed()
        sh("exportfs", "-ua")
        sh("exportfs", "-f")
        sh("umount", str(EXPORT))
        self.disk.mount()
        self.start()
