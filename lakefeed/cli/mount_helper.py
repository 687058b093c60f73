"""The programs behind mount(8) and umount(8): `mount -t fuse.lakefeed LAKE DIR`, lines in fstab.

Installed as `mount.fuse.lakefeed` and `umount.fuse.lakefeed`; they are looked for in /sbin, so link
them there. They translate and run `lakefeed mount` and `lakefeed umount`. Without the latter,
umount(8) returns while the daemon commits what is pending, and hears of no failure. Options:

ro, rw         whether files can be written; mount(8) says rw when nobody said anything. With `at=`
               there is nothing to write.
allow_other    let other users in
noexec         run no program from there; nosuid and nodev are so in any case
NAME=VALUE     every option of `lakefeed mount` (at=v1, cache=1GiB, commit_age=2s)
setuid=USER    the daemon runs as this user: behind root_squash root cannot read

What the kernel, mount(8) or systemd alone understand is left to them. Anything else is an error: a
misspelled option must not be a mount without it.
"""

from __future__ import annotations

import os
import pwd
import sys
from dataclasses import dataclass

from lakefeed.cli.app import main as run_lakefeed

# Options of `lakefeed mount` that take a value and may stand in `-o`.
_VALUES = ("at", "refresh", "sync", "commit-age", "cache", "spool", "spool-size", "owner",
           "watchdog", "listen", "log", "log-level")  # fmt: skip
# And those that stand alone. mount(8) leaves noexec to its helper, and says it for `user`.
_SWITCHES = ("allow-other", "noexec")
_OTHERS = {
    "", "rw", "ro", "defaults", "auto", "noauto", "user", "users", "nouser", "group", "owner",
    "nofail", "_netdev", "exec", "suid", "nosuid", "dev", "nodev", "sync", "async",
    "dirsync", "atime", "noatime", "relatime", "norelatime", "strictatime", "lazytime",
    "nolazytime", "diratime", "nodiratime", "remount",
}  # fmt: skip
_OTHERS_STARTS = ("x-", "X-", "comment=", "context=", "fscontext=", "defcontext=", "rootcontext=")
# mount(8): "incorrect invocation or permissions".
_EXIT_USAGE = 1


@dataclass(frozen=True, slots=True)
class Request:
    """What mount(8) asks for: the arguments of `lakefeed`, as whom, and what nobody understands."""

    arguments: list[str]
    user: str | None = None
    unknown: tuple[str, ...] = ()
    pretend: bool = False


def _parsed(words: list[str]) -> tuple[list[str], list[str], str]:
    """Return the places, the options behind -o, and the letters of all other flags."""
    places: list[str] = []
    options: list[str] = []
    flags = ""
    rest = iter(words)
    for word in rest:
        if word == "-o":
            options += next(rest, "").split(",")
        elif word == "-t":
            next(rest, None)
        elif word == "-N":
            # A namespace to do it in. We would do it in our own, perhaps to another mount.
            options.append(f"{word} {next(rest, '')}")
        elif word.startswith("-"):
            flags += word[1:]
        else:
            places.append(word)
    return places, options, flags


def request_of(words: list[str]) -> Request:
    """Return what the arguments that mount(8) gives ask for."""
    places, options, flags = _parsed(words)
    translated, user, unknown = _translate(options)
    return Request(["mount", *places, *translated], user, tuple(unknown), "f" in flags)


def _translate(options: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Return the flags that options mean, the user of `setuid`, and what is neither."""
    translated: list[str] = []
    user, unknown, fixed = None, [], False
    for option in options:
        name, equals, value = option.partition("=")
        flag = name.replace("_", "-")
        if equals and flag in _VALUES:
            translated.append(f"--{flag}={value}")
            fixed = fixed or flag == "at"
        elif flag in _SWITCHES:
            translated.append(f"--{flag}")
        elif equals and name == "setuid":
            user = value
        elif option not in _OTHERS and not option.startswith(_OTHERS_STARTS):
            unknown.append(option)
    writable = "rw" in options and "ro" not in options and not fixed
    return ["--rw", *translated] if writable else translated, user, unknown


def unmounting_of(words: list[str]) -> list[str] | None:
    """Return the command that does what the arguments that umount(8) gives ask for, if we can."""
    places, options, flags = _parsed(words)
    if options:
        return None
    lazy = "l" in flags
    if "f" in flags:
        # The connection is to be broken, whatever that loses.
        return ["umount", "-i", "-f", *(["-l"] if lazy else []), *places]
    return ["lakefeed", "umount", *(["--lazy"] if lazy else []), *places]


def become(name: str) -> None:
    """Give up root for a user, with that user's groups."""
    entry = pwd.getpwnam(name)
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def main() -> None:
    """Mount, as mount(8) asked."""
    request = request_of(sys.argv[1:])
    if request.unknown:
        print(f"mount.fuse.lakefeed: unknown option {request.unknown[0]}", file=sys.stderr)
        sys.exit(_EXIT_USAGE)
    if request.user is not None:
        try:
            become(request.user)
        except (KeyError, PermissionError) as error:
            print(f"mount.fuse.lakefeed: setuid={request.user}: {error}", file=sys.stderr)
            sys.exit(_EXIT_USAGE)
    if not request.pretend:
        sys.argv = ["lakefeed", *request.arguments]
        run_lakefeed()


def unmount() -> None:
    """Unmount, as umount(8) asked: what is pending is committed first, or that fails."""
    command = unmounting_of(sys.argv[1:])
    if command is None:
        print("umount.fuse.lakefeed: unknown option -N: run it in there, with nsenter -m",
              file=sys.stderr)  # fmt: skip
        sys.exit(_EXIT_USAGE)
    if command[0] != "lakefeed":
        os.execvp(command[0], command)
    sys.argv = command
    run_lakefeed()


if __name__ == "__main__":
    main()
