"""Commands for the FUSE mount: mount, umount."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import select
import signal
import stat
import sys
import threading
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    AtOption,
    LakeArgument,
    exit_codes,
    is_file,
    report,
    settings,
    snapshot_of,
)
from lakefeed.cli.mount_daemon import READY_FD, Daemons, Reporter, notify_systemd
from lakefeed.cli.mount_federation import Wanted, mount_federation, words_of
from lakefeed.cli.units import duration_option, exact_seconds, size_option
from lakefeed.errors import (
    EXIT_CONFLICT,
    EXIT_NOT_FOUND,
    Invalid,
    LakefeedError,
    VolumeFailed,
    from_os_error,
)
from lakefeed.service.logs import TextFormatter, log_to_stderr

if TYPE_CHECKING:
    from lakefeed.adapters.fuse import kernel
    from lakefeed.adapters.fuse.session import MountOptions

commands = typer.Typer()

# Writing out what is pending takes as long as the volume takes; this bounds a volume that is gone.
STOP_SECONDS = 600.0
# Descriptors of the daemon, where it may have as many: for packs that are read, and for the spool.
FILES_MAX = 1 << 16
# Users and groups have 32 bits; the last number says "nobody in particular" to chown.
IDS_END = (1 << 32) - 1
# Linux's numbers of /dev/fuse, which need not be there where it was handed over.
FUSE_DEVICE = os.makedev(10, 229)


class SyncWhen(str, Enum):
    """What makes a change durable before the call returns."""

    FSYNC = "fsync"
    CLOSE = "close"


class Level(str, Enum):
    """How much the daemon says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _option(name: str, help: str, **how: Any) -> Any:
    return typer.Option(name, help=help, **how)


def _time(name: str, help: str) -> Any:
    return _option(name, help, metavar="DURATION", parser=duration_option)


def _size(name: str, help: str) -> Any:
    return _option(name, help, metavar="SIZE", parser=size_option)


MountPoint = Annotated[
    str, typer.Argument(metavar="MOUNTPOINT", help="Directory to mount on.", show_default=False)
]
Refresh = Annotated[float, _time("--refresh", "Without --at: how often to look for news.")]
Writable = Annotated[bool, _option("--rw", "Let files be written.")]
Foreground = Annotated[bool, typer.Option("--foreground", "-f", help="Stay, and log to stderr.")]
AllowOther = Annotated[bool, _option("--allow-other", "Let other users in, as the modes allow.")]
NoExec = Annotated[bool, _option("--noexec", "Let no program be run from there.")]
Sync = Annotated[SyncWhen, _option("--sync", "What waits for the commit: fsync, or close as well.")]
CommitAge = Annotated[float, _time("--commit-age", "Commit changes of this age, asked or not.")]
Cache = Annotated[int, _size("--cache", "Memory for blocks and payloads.")]
SpoolDir = Annotated[
    str | None, _option("--spool", "Where big files wait for their commit.", metavar="DIR")
]
SpoolSize = Annotated[int, _size("--spool-size", "Room for them; the rest is refused (ENOSPC).")]
Handed = Annotated[
    int | None,
    _option("--fd", "Serve this open /dev/fuse, mounted on MOUNTPOINT already.", metavar="NUMBER"),
]
Owner = Annotated[str | None, _option("--owner", "Whom all files belong to.", metavar="UID:GID")]
Watchdog = Annotated[
    float, _time("--watchdog", "End a mount whose daemon hangs for so long; 0s: never.")
]
Listen = Annotated[
    str | None, _option("--listen", "Serve Prometheus metrics here.", metavar="HOST:PORT")
]
LogFile = Annotated[
    str | None, _option("--log", "Append the daemon's log to a file.", metavar="FILE")
]
LogLevel = Annotated[Level, _option("--log-level", "How much to log.")]


@commands.command("mount", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT))
def mount(
    lake: LakeArgument,
    mountpoint: MountPoint,
    at: AtOption = None,
    refresh: Refresh = "5s",  # type: ignore[assignment]
    rw: Writable = False,
    foreground: Foreground = False,
    allow_other: AllowOther = False,
    noexec: NoExec = False,
    sync: Sync = SyncWhen.FSYNC,
    commit_age: CommitAge = "1s",  # type: ignore[assignment]
    cache: Cache = "256MiB",  # type: ignore[assignment]
    spool: SpoolDir = None,
    spool_size: SpoolSize = "16GiB",  # type: ignore[assignment]
    fd: Handed = None,
    owner: Owner = None,
    watchdog: Watchdog = "2m",  # type: ignore[assignment]
    listen: Listen = None,
    log: LogFile = None,
    log_level: LogLevel = Level.WARNING,
) -> None:
    """Mount a lake, or each lake of a federation, as a directory; returns once all answer.

    With --at it shows that snapshot for ever, else the newest one, and older ones as
    MOUNTPOINT/.snapshots/TAG. With --rw files can be written: changes are visible here at once, to
    others after the next commit, and durable after fsync. "lakefeed umount" ends it. The lakes of
    a federation are mounted at MOUNTPOINT/PREFIX; one that cannot be is named, the others are.

    \b
    lakefeed mount /mnt/lake /data --at v1
    lakefeed mount /mnt/lake /data --rw --sync close
    """
    if at is not None and rw:
        raise Invalid("--rw", expected="the newest snapshot", found=f"--at {at}",
                      hint="snapshots never change; leave one of the two out")  # fmt: skip
    if is_file(lake):
        _check_for_many(lake, fd, listen)
        words = words_of(
            refresh=exact_seconds(refresh), sync=sync.value, commit_age=exact_seconds(commit_age),
            cache=cache, spool=spool, spool_size=spool_size, owner=owner, noexec=noexec,
            watchdog=exact_seconds(watchdog), log_level=log_level.value, allow_other=allow_other,
        )  # fmt: skip
        stay = Reporter(None).up if foreground else None
        mount_federation(lake, mountpoint, Wanted(words, at, rw, log), stay)
        return
    _check_handed(fd)
    if not foreground and READY_FD not in os.environ:
        _start(mountpoint, log, fd)
        return
    from lakefeed.adapters.fuse.changes import Committing
    from lakefeed.adapters.fuse.session import MountOptions
    from lakefeed.adapters.fuse.spool import Budget

    _start_log(log_level)
    options = MountOptions(
        at, refresh, rw, allow_other, not noexec, fd, cache, watchdog, _owner(owner),
        Committing(age_seconds=commit_age, sync_close=sync is SyncWhen.CLOSE),
        Budget(spool, disk_max=spool_size, files_max=_allowed_files() // 2),
    )  # fmt: skip
    _serve(lake, mountpoint, options, Reporter(listen))


def _start(mountpoint: str, log: str | None, fd: int | None) -> None:
    """Start this command as a daemon and wait until it is up."""
    with Daemons() as starting:
        code = starting.begin(sys.argv[1:], log, fd, mountpoint=mountpoint).wait()
    if code:
        raise typer.Exit(code)


@commands.command("umount", epilog=exit_codes(EXIT_NOT_FOUND))
def umount(
    mountpoint: MountPoint,
    lazy: Annotated[
        bool,
        typer.Option("--lazy", "-z", help="Detach it first, even if files are open there."),
    ] = False,
) -> None:
    """Commit what is pending, unmount, and wait for the daemon to finish.

    Fails while files are open there, unless --lazy: that frees MOUNTPOINT whatever the lake does,
    and does not wait for the daemon. A mount whose daemon died is removed as well.
    Where MOUNTPOINT is no lake, all lakes that are mounted below it are unmounted.

    \b
    lakefeed umount /data
    """
    from lakefeed.adapters.fuse import kernel

    found = kernel.mounted_at(mountpoint)
    if found is not None and found.kind == kernel.FUSE_TYPE:
        mounts = [found]
    else:
        mounts = kernel.lakes_below(mountpoint)
    if not mounts:
        raise Invalid(f"mount point {mountpoint}", expected="a mounted lake",
                      found="none" if found is None else found.kind)  # fmt: skip
    failed = [code for code in _unmounted(mounts, lazy=lazy) if code]
    if failed:
        raise typer.Exit(failed[0])


def _unmounted(mounts: list[kernel.Mounted], *, lazy: bool) -> list[int]:
    """End mounts, newest first; return 0 for each, or the exit code of what keeps it, as was said.

    Each on a thread, or all would wait at one whose volume is sick; but after newer ones that lie
    in it or over it. Ctrl-C leaves the threads behind, which nothing but an answer ends.
    """
    codes: dict[kernel.Mounted, int] = {}
    threads: dict[kernel.Mounted, threading.Thread] = {}

    def end(found: kernel.Mounted, before: list[threading.Thread]) -> None:
        for thread in before:
            thread.join()
        try:
            _end(found, lazy=lazy)
            codes[found] = 0
        except LakefeedError as error:
            codes[found] = report(error)
        except OSError as error:
            codes[found] = report(from_os_error(error, f"unmount {found.path}"))

    for found in mounts:
        before = [
            thread
            for newer, thread in threads.items()
            if os.path.commonpath((newer.path, found.path)) in (newer.path, found.path)
        ]
        threads[found] = threading.Thread(target=end, args=(found, before), daemon=True)
        threads[found].start()
    for thread in threads.values():
        thread.join()
    return [codes[found] for found in mounts]


def _end(found: kernel.Mounted, *, lazy: bool) -> None:
    from lakefeed.adapters.fuse import kernel

    if kernel.is_dead(found):
        kernel.unmount(found.path, lazy=True)
        return
    # Leads to the mount when no path does any more; opened like this it asks nobody.
    place = os.open(found.path, os.O_PATH)
    try:
        user = kernel.lets_in(found) if os.geteuid() == 0 else None
        if lazy:
            kernel.unmount(found.path, lazy=True)
        pid = _commit(found.path, place, user)
    finally:
        os.close(place)
    if lazy:
        return
    handle = os.pidfd_open(pid) if pid is not None else None
    try:
        kernel.unmount(found.path)
        if handle is not None:
            ended, *_ = select.select([handle], [], [], STOP_SECONDS)
            if not ended:
                raise VolumeFailed(f"mount at {found.path}", expected="its daemon to finish",
                                   found=f"process {pid} at work after {STOP_SECONDS:g} s",
                                   hint="it is unmounted; the log of the daemon tells what becomes "
                                   "of its last changes", errno=errno.ETIMEDOUT)  # fmt: skip
    finally:
        if handle is not None:
            os.close(handle)


def _commit(path: str, place: int, user: tuple[int, int] | None) -> int | None:
    """Have everything committed; return the daemon's pid, if it is one that we may wait for.

    `place` is open and leads to what is mounted at the path, or was. If that does not let us in,
    it is asked as `user`.
    """
    from lakefeed.adapters.fuse import asking

    try:
        try:
            pid = asking.commit(place)
        except PermissionError:
            if user is None:
                raise
            pid = asking.commit_as(*user, place)
    except OSError as error:
        raise from_os_error(error, f"commit what is pending at {path}") from error
    return pid if pid is not None and os.path.exists(f"/proc/{pid}") else None


# -- the daemon ------------------------------------------------------------------------------------


def _start_log(level: Level) -> None:
    wanted = logging.DEBUG if settings.get().debug else level.value.upper()
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    log_to_stderr(TextFormatter(form), wanted, anew=True)
    logging.getLogger("pyfuse3").setLevel(max(logging.INFO, logging.getLogger().level))


def _allowed_files() -> int:
    """Let this process open as many files as it may; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = max(soft, min(hard, FILES_MAX))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


def _owner(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    user, _, group = text.partition(":")
    if not all(each.isdecimal() and int(each) < IDS_END for each in (user, group)):
        raise Invalid(f"--owner {text}", expected="two numbers, UID:GID")
    return int(user), int(group)


def _check_for_many(lake: str, fd: int | None, listen: str | None) -> None:
    if fd is not None or listen is not None:
        raise Invalid("--fd or --listen", expected="one lake", found=f"the federation {lake}",
                      hint="mount its lakes one by one")  # fmt: skip


def _check_handed(fd: int | None) -> None:
    if fd is None:
        return
    try:
        found = os.fstat(fd)
    except (OSError, OverflowError):
        found = None
    if found is None or (stat.S_IFMT(found.st_mode), found.st_rdev) != (stat.S_IFCHR, FUSE_DEVICE):
        raise Invalid(f"--fd {fd}", expected="the number of an open /dev/fuse",
                      found="none" if found is None else "another file")  # fmt: skip


def _serve(lake: str, mountpoint: str, options: MountOptions, reporter: Reporter) -> None:
    # Nodes of long listings are many small objects that live long and hold no cycles.
    gc.set_threshold(100_000, 50, 100)
    # A commit computes on a thread; the one that answers requests must not wait 5 ms for its turn.
    sys.setswitchinterval(0.0005)
    from lakefeed.adapters.fuse.session import Mount
    from lakefeed.format.bridge import spare_pandas
    from lakefeed.lake.lake import Lake

    spare_pandas()
    reporter.listen()
    # Not behind a deadline: handing every read to a thread would cost more than most reads take.
    with Lake.open(lake) as opened:
        if options.at is not None:
            options = replace(options, at=snapshot_of(opened, str(options.at)).number)
        # The session has its own handler, which lets pending changes be committed first.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        Mount(opened, mountpoint, options).run(reporter.ready)
    notify_systemd("STOPPING=1")
