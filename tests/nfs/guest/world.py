"""The small world inside the guest: one kernel NFS server and two real kernel NFS clients.

    root namespace                      namespace c1            namespace c2
    nfsd, mountd, [lossy relay]  veth   mount /run/c1           mount /run/c2
    10.0.1.1  10.0.2.1          ------  10.0.1.2                10.0.2.2

A mount belongs to the network namespace it was made in, whichever process uses it: "client c1"
is the folder `world.c1.root`. Each namespace has its own NFS client identifier; without that
the server takes both for one client, gives both the same lock and breaks their open files.
Mounts are hard, with default caching. On v3 they are `nolock`: locking there needs a statd in
every namespace, and no promise under test may rest on a lock.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from server import Disk, Server
from tools import sh

NETS = {"c1": "10.0.1", "c2": "10.0.2"}


@dataclass(frozen=True)
class Settings:
    """What a boot may choose; the host builds it, see rig.Options for the meaning."""

    vers: str
    mount_options: str = ""
    export: str = "tmpfs"
    export_options: str = ""
    delay_ms: dict[str, float] = field(default_factory=dict)
    loss_percent: dict[str, float] = field(default_factory=dict)
    mount: bool = True


@dataclass
class Client:
    """One kernel NFS client: a network namespace and its mount of the export."""

    name: str
    vers: str
    mount_options: str = ""

    @property
    def root(self) -> Path:
        return Path("/run", self.name)

    @property
    def server_ip(self) -> str:
        return f"{NETS[self.name]}.1"

    def netns(self, *command: str) -> str:
        """Run a command in this client's network namespace."""
        return sh("ip", "netns", "exec", self.name, *command)

    def connect(self) -> None:
        """Make the namespace, its cable to the server and its own client identifier."""
        net, near, far = NETS[self.name], f"v{self.name}", f"s{self.name}"
        sh("ip", "netns", "add", self.name)
        outside = Path(f"/run/{self.name}.outside")
        outside.write_text(
            f"link add {far} type veth peer name {near} netns {self.name}\n"
            f"addr add {net}.1/24 dev {far}\nlink set {far} up\n"
        )
        sh("ip", "-batch", str(outside))
        inside = Path(f"/run/{self.name}.inside")
        inside.write_text(f"addr add {net}.2/24 dev {near}\nlink set {near} up\nlink set lo up\n")
        identifier = "/sys/fs/nfs/net/nfs_client/identifier"
        self.netns("sh", "-ec", f"ip -batch {inside}; echo lakefeed-{self.name} >{identifier}")

    def shape(self, delay_ms: float = 0, loss_percent: float = 0) -> None:
        """Make what this client sends late (and, in part, lost); zeros heal the cable."""
        load("sch_netem")
        device = f"v{self.name}"
        self.netns(
            *("tc", "qdisc", "replace", "dev", device, "root", "netem"),
            *("delay", f"{delay_ms}ms", "loss", f"{loss_percent}%"),
        )

    def mount(self, port: int = 2049) -> None:
        """Mount the export at `root`; `port` may be a relay in front of the server."""
        self.root.mkdir(exist_ok=True)
        options = [f"vers={self.vers}", f"port={port}", "proto=tcp"]
        source, kind = f"{self.server_ip}:/", "nfs4"
        if self.vers == "3":
            # Naming mountd's port saves the client a conversation with rpcbind.
            options += ["nolock", "mountport=20048", "mountproto=tcp", "mountvers=3"]
            source, kind = f"{self.server_ip}:/run/export", "nfs"
        if self.mount_options:
            options.append(self.mount_options)
        # nsenter, not `ip netns exec`: that one would mount in a private mount namespace.
        sh(
            *("nsenter", f"--net=/run/netns/{self.name}", "mount", "-t", kind),
            *("-o", ",".join(options), source, str(self.root)),
        )

    def unmount(self) -> None:
        sh("umount", str(self.root))

    def remount(self, port: int = 2049) -> None:
        """Mount afresh: empty caches and, with another port, another way to the server."""
        self.unmount()
        self.mount(port)

    def options_in_force(self) -> str:
        """Return the mount options as the kernel states them."""
        for line in Path("/proc/mounts").read_text().splitlines():
            _, where, _, options, *_ = line.split()
            if where == str(self.root):
                return options
        raise LookupError(f"{self.root} is not mounted")


@dataclass
class World:
    """Server and clients, up and mounted. Leaves nothing behind: the guest ends with it."""

    settings: Settings
    server: Server
    c1: Client
    c2: Client

    @classmethod
    def start(cls, settings: Settings) -> World:
        modules = ["nfsd", "nfsv3" if settings.vers == "3" else "nfsv4", "veth"]
        load(*modules)
        sh("ip", "link", "set", "lo", "up")
        disk = None if settings.export == "tmpfs" else Disk.make()
        server = Server(disk=disk, options=settings.export_options)
        server.prepare()
        clients = [Client(name, settings.vers, settings.mount_options) for name in NETS]
        for client in clients:
            client.connect()
            if client.name in settings.delay_ms or client.name in settings.loss_percent:
                delay, loss = settings.delay_ms, settings.loss_percent
                client.shape(delay.get(client.name, 0), loss.get(client.name, 0))
            if settings.mount:
                client.mount()
        return cls(settings, server, *clients)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir("/")


def load(*modules: str) -> None:
    """Load kernel modules of User-Mode Linux; they live beside it, not in /lib/modules."""
    sh("modprobe", "-d", "/run/modules", "-a", *modules)
