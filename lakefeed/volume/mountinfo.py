"""The mounts of this process, as proc_pid_mountinfo(5) writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

NFS = ("nfs", "nfs4")

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    number: int
    point: str
    kind: str
    source: str
    device: str
    options: Mapping[str, str]

    @property
    def option_text(self) -> str:
        """The options as mount(8) writes them."""
        return ",".join(
            f"{name}={value}" if value else name for name, value in self.options.items()
        )

    @property
    def is_nfs(self) -> bool:
        """Whether the kernel's NFS client serves it."""
        return self.kind in NFS

    @property
    def is_fuse(self) -> bool:
        """Whether a program serves it."""
        return self.kind.startswith("fuse")


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts of a mountinfo text; lines of another shape are passed over."""
    mounts = []
    for line in text.splitlines():
        # Any number of fields stand before the lone dash.
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not separator or len(left) < 6 or len(right) < 2 or not left[0].isdecimal():
            continue
        words = [*left[5].split(","), *(right[2].split(",") if len(right) > 2 else [])]
        options = {name: value for name, _, value in (word.partition("=") for word in words)}
        point, source = unescape(left[4]), unescape(right[1])
        mounts.append(Mount(int(left[0]), point, right[0], source, left[2], options))
    return mounts


def unescape(text: str) -> str:
    """Return a name of the kernel's tables of mounts as it is: they write spaces as \\040."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
