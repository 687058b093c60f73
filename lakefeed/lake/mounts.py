"""Which lake answers for which paths: the small file that makes several lakes one namespace.

A federation file is JSON, lies anywhere, and names lakes by the path prefixes under which they
appear:

    {"federation": 1, "mounts": [{"prefix": "train", "lake": "/mnt/a/lake", "at": "v1"},
                                 {"prefix": "cameras/line1", "lake": "../line1"}]}

No prefix lies in another. A relative directory is one beside the file. `at`, a tag or a number,
fixes the snapshot of one lake. Pure but for `load` and `save`, which read and write the file.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from lakefeed.errors import Conflict, Invalid, NotFound
from lakefeed.format.paths import check_prefix
from lakefeed.lake.placing import place_over
from lakefeed.volume.base import Volume, read_file

VERSION = 1
# Thousands of lakes with the longest names; more than this is another file.
FILE_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Mount:
    """A lake and where it appears; `at` names its snapshot, None is the newest."""

    prefix: str
    lake: str
    at: str | None = None

    def holds(self, path: str) -> bool:
        """Tell whether a path is the mount or lies below it."""
        return not self.prefix or path == self.prefix or path.startswith(f"{self.prefix}/")

    def inside(self, path: str) -> str:
        """Return what the lake calls a path that this mount holds."""
        return path[len(self.prefix) :].lstrip("/") if self.prefix else path

    def outside(self, path: str) -> str:
        """Return what a path of the lake is called here."""
        return f"{self.prefix}/{path}" if self.prefix and path else self.prefix or path


@dataclass(frozen=True, slots=True)
class Mounts:
    """The mounts of one federation, in path order, none inside another."""

    mounts: tuple[Mount, ...] = ()

    def of(self, path: str) -> Mount | None:
        """Return the mount that holds a path, None if it lies between or above them."""
        # The last one that does not come after the path: what lies between would lie in it.
        at = bisect_right(self.mounts, f"{path}/", key=_place) - 1
        return self.mounts[at] if at >= 0 and self.mounts[at].holds(path) else None

    def below(self, directory: str) -> list[Mount]:
        """Return the mounts that lie below a directory, or are it."""
        above = Mount(directory, "")
        return [mount for mount in self.mounts if above.holds(mount.prefix)]

    def named(self, prefix: str) -> Mount:
        """Return the mount of exactly this prefix; NotFound if there is none."""
        prefix = check_prefix(prefix)
        for mount in self.mounts:
            if mount.prefix == prefix:
                return mount
        raise NotFound(f"mount {prefix!r}", hint="the federation lists its mounts")

    def adding(self, mount: Mount, *, move: bool = False) -> Mounts:
        """Return these and one more; Conflict if its prefix is taken, unless it may be moved."""
        mount = replace(mount, prefix=check_prefix(mount.prefix))
        others = [one for one in self.mounts if one.prefix != mount.prefix]
        if len(others) < len(self.mounts) and not move:
            raise Conflict(f"mount {mount.prefix!r}", found="a lake there already",
                           hint="remove it first, or --move it")  # fmt: skip
        return checked([*others, mount])

    def removing(self, prefix: str) -> Mounts:
        """Return these without the mount of a prefix; NotFound if there is none."""
        gone = self.named(prefix)
        return Mounts(tuple(one for one in self.mounts if one is not gone))


def checked(mounts: list[Mount]) -> Mounts:
    """Return mounts in path order; Invalid where one lies in another."""
    ordered = sorted(mounts, key=_place)
    for before, mount in pairwise(ordered):
        if before.holds(mount.prefix):
            raise Invalid(f"mount {mount.prefix!r}", expected="a prefix outside all others",
                          found=f"one in {before.prefix!r}")  # fmt: skip
    return Mounts(tuple(ordered))


def _place(mount: Mount) -> str:
    """Return what sorts as the paths in a mount do: 'a!/x' comes before 'a/x'."""
    return f"{mount.prefix}/" if mount.prefix else ""


def parse(data: bytes, name: str) -> Mounts:
    """Return the mounts in a file's bytes; Invalid names what is wrong with it."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"federation {name}", expected='JSON with "federation" and "mounts"',
                      found=error) from error  # fmt: skip
    if not isinstance(body, dict) or body.get("federation") != VERSION:
        found = body.get("federation") if isinstance(body, dict) else type(body).__name__
        raise Invalid(f"federation {name}", expected=f"version {VERSION}", found=found,
                      hint="upgrade lakefeed, or write the file anew")  # fmt: skip
    mounts = body.get("mounts")
    if not isinstance(mounts, list):
        raise Invalid(f"federation {name}", expected="a list of mounts", found=mounts)
    return checked([_mount(item, name) for item in mounts])


def _mount(item: object, name: str) -> Mount:
    if not isinstance(item, Mapping):
        raise Invalid(f"federation {name}", expected="mounts with prefix and lake", found=item)
    prefix, lake, at = item.get("prefix"), item.get("lake"), item.get("at")
    if not (isinstance(prefix, str) and isinstance(lake, str) and lake and "\0" not in lake):
        raise Invalid(f"federation {name}", expected="mounts with prefix and lake", found=item)
    if at is not None and not isinstance(at, str):
        raise Invalid(f"federation {name}", expected="at as a tag or a number in text", found=at)
    return Mount(check_prefix(prefix), lake, at)


def render(mounts: Mounts) -> bytes:
    """Return the file of these mounts."""
    items = [{key: value for key, value in
              (("prefix", one.prefix), ("lake", one.lake), ("at", one.at)) if value is not None}
             for one in mounts.mounts]  # fmt: skip
    return json.dumps({"federation": VERSION, "mounts": items}, indent=1).encode() + b"\n"


def load(volume: Volume, name: str) -> Mounts:
    """Return the mounts that a file of a directory names."""
    with volume.open(name) as file:
        size = file.size
    if size > FILE_BYTES_MAX:
        raise Invalid(f"federation {name}", expected=f"at most {FILE_BYTES_MAX} bytes", found=size)
    return parse(read_file(volume, name), f"{volume.name}/{name}")


def save(volume: Volume, name: str, mounts: Mounts) -> None:
    """Write the file, whole or not at all."""
    place_over(volume, render(mounts), name, lambda id_: f".{name[:100]}.{id_}")
    volume.sync_directory("")


def directory_of(mount: Mount, home: str) -> str:
    """Return the directory of a mount's lake; a relative one is beside the file, in `home`."""
    return os.path.normpath(os.path.join(home, mount.lake))
