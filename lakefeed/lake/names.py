"""Which names a writer may use, given what it sees: a path is a file or a directory, never both.

Looking up every directory above every new file would cost more than writing it, so directories once
seen to be no files are remembered. What other writers do meanwhile is not seen: two of them can
make a file and a directory of one name, which `fsck` reports as shadowed. For the same reason a
file put over a directory is refused only where this writer knows of the directory.

The set is shared by threads; each step on it is atomic, and forgetting a name only costs a look-up.
"""

from __future__ import annotations

from collections.abc import Callable

from lakefeed.errors import Invalid, NotFound, SnapshotExpired
from lakefeed.format.pack import Meta
from lakefeed.format.paths import check_path, parents
from lakefeed.format.rows import ATTRS_BYTES_MAX, TIMES_NS, Kind, Row, attrs_bytes
from lakefeed.given import check
from lakefeed.lake.overlay import Overlay

# About 20 MB of names.
_PARENTS_MAX = 100_000


class Names:
    """Checks names against `view`, which gives what the writer sees now."""

    def __init__(self, view: Callable[[], Overlay]) -> None:
        self._view = view
        self._parents: set[str] = set()

    def check_file(self, path: str) -> None:
        """Refuse a path that cannot be, lies below a file, or is known to be a directory."""
        check_path(path)
        if path in self._parents:
            if self._is_directory(path):
                raise Invalid(f"path {path!r}", expected="a name for a file", found="a directory")
            self._forget(path)
        self._check_parents(path)

    def check_directory(self, path: str) -> None:
        """Refuse a path that cannot be a directory: a file, or a path below one."""
        if self._view().is_file(check_path(path)):
            raise Invalid(f"path {path!r}", expected="a name for a directory", found="a file")
        self._check_parents(path)
        self._remember([path])

    def check_move(self, source: str, target: str) -> list[Row]:
        """Return the rows that a rename or copy takes; refuse what would mix files and directories.

        NotFound if there is nothing to move, Invalid if the target is a directory with files in it,
        or a file while the source is a directory.
        """
        check_path(target)
        self._check_parents(target)
        if target == source or target.startswith(f"{source}/"):
            raise Invalid(f"path {source!r}", expected="a target outside itself", found=target)
        view = self._view()
        rows = view.subtree(check_path(source))
        if not rows:
            raise NotFound(f"{source!r} in the lake")
        if view.has_children(target):
            raise Invalid(f"target {target!r}", expected="no directory with files in it",
                          found="one", hint="rename its files, or delete it first")  # fmt: skip
        moves_directory = rows[0].path != source or rows[0].kind is Kind.DIR
        if moves_directory and view.is_file(target):
            raise Invalid(f"target {target!r}", expected="no file", found="one")
        self._forget(target)
        if moves_directory:
            # Another writer may have put a file where one of these was.
            files = {row.path for row in rows if row.kind is not Kind.DIR}
            known = [name for name in self._known_below(source) if name not in files]
            moved = [target + name[len(source) :] for name in known]
            self._remember([*parents(target), target, *moved])
        return rows

    def check_delete(self, path: str) -> None:
        """Refuse to delete what is not there, or a directory that holds something."""
        view = self._view()
        row = view.stat(check_path(path))
        if row.kind is Kind.DIR and view.has_children(path):
            raise Invalid(f"delete {path!r}", expected="a file or an empty directory",
                          found="a directory with files in it", hint="delete the tree")  # fmt: skip

    def _is_directory(self, path: str) -> bool:
        view = self._view()
        try:
            return view.has_children(path) or view.stat(path).kind is Kind.DIR
        except SnapshotExpired:
            raise
        except NotFound:
            return False

    def _forget(self, path: str) -> None:
        """Forget a directory that becomes another thing, and those below it."""
        if path in self._parents:
            self._parents.difference_update([path, *self._known_below(path)])

    def _known_below(self, path: str) -> list[str]:
        return [name for name in tuple(self._parents) if name.startswith(f"{path}/")]

    def _remember(self, directories: list[str]) -> None:
        if len(self._parents) + len(directories) > _PARENTS_MAX:
            self._parents.clear()
        self._parents.update(directories)

    def _check_parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if not parent or parent in self._parents:
            return
        view = self._view()
        for directory in parents(path):
            if view.is_file(directory):
                raise Invalid(f"path {path!r}", expected="directories above it", found=directory)
        self._remember(parents(path))


def check_facts(path: str, meta: Meta) -> int:
    """Refuse what no row can say of a file: one such row would fail the whole batch.

    Return what a lake keeps of the mode, as stat(2) gives it: the permission bits.
    """
    try:
        return _kept_mode(path, meta)
    except (AttributeError, TypeError):
        check(f"time of {path!r}", meta.mtime_ns, int)
        check(f"mode of {path!r}", meta.mode, int)
        check(f"attributes of {path!r}", meta.attrs, dict | None, "text by its name")
        raise


def _kept_mode(path: str, meta: Meta) -> int:
    if not TIMES_NS.start <= meta.mtime_ns < TIMES_NS.stop:
        raise Invalid(f"time of {path!r}", expected="one from 1678 to 2262",
                      found=f"{meta.mtime_ns} ns")  # fmt: skip
    if not 0 <= meta.mode < 1 << 32:
        raise Invalid(f"mode of {path!r}", expected="permission bits", found=meta.mode)
    for text in (part for pair in (meta.attrs or {}).items() for part in pair):
        if not _is_text(text):
            raise Invalid(f"attributes of {path!r}", expected="text", found=repr(text))
    if meta.attrs and attrs_bytes(meta.attrs) > ATTRS_BYTES_MAX:
        raise Invalid(f"attributes of {path!r}", expected=f"at most {ATTRS_BYTES_MAX} bytes in all",
                      found=attrs_bytes(meta.attrs),
                      hint="keep them as a file beside this one")  # fmt: skip
    return int(meta.mode) & 0o7777


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def text_bytes(subject: str, text: str) -> bytes:
    """Return text as a lake keeps it; Invalid where it is none."""
    if not _is_text(text):
        raise Invalid(subject, expected="valid UTF-8", found=repr(text))
    return text.encode()
