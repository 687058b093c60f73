"""Which names a lake accepts, and the order they are kept in.

A path is valid UTF-8, relative, '/'-separated, without empty, `.` or `..` components and without
NUL; at most 4096 bytes in all and 255 bytes a component (PATH_MAX and NAME_MAX of Linux), so that
every path of a lake can exist on a mounted filesystem. Anything else is Invalid and names the path.

Rows are sorted by the bytes of the path. That order equals the order of Python's `str`, because
UTF-8 keeps code point order.
"""

from __future__ import annotations

import re

from lakefeed.errors import Invalid
from lakefeed.given import check

PATH_BYTES_MAX = 4096
COMPONENT_BYTES_MAX = 255

_COMPONENT = r"(?!\.{1,2}(?:/|\Z))[^/\0]{1,255}"
_SHAPE = re.compile(f"{_COMPONENT}(?:/{_COMPONENT})*")


def check_path(path: str) -> str:
    """Return `path` if a lake accepts it, else raise Invalid naming it and what is wrong."""
    check("path", path, str)
    if path.isascii() and len(path) <= PATH_BYTES_MAX and _SHAPE.fullmatch(path):
        return path
    return _check_slowly(path)


def _check_slowly(path: str) -> str:
    if not path:
        raise _invalid(path, "at least one character")
    try:
        data = path.encode()
    except UnicodeEncodeError as error:
        raise _invalid(path, "valid UTF-8") from error
    if len(data) > PATH_BYTES_MAX:
        raise _invalid(path, f"at most {PATH_BYTES_MAX} bytes")
    if "\0" in path:
        raise _invalid(path, "no NUL")
    if path.startswith("/"):
        raise _invalid(path, "a relative path", "leave out the '/' that it begins with")
    for component in data.split(b"/"):
        if component in (b"", b".", b".."):
            raise _invalid(path, "no empty, '.' or '..' component", "write it without them")
        if len(component) > COMPONENT_BYTES_MAX:
            raise _invalid(path, f"components of at most {COMPONENT_BYTES_MAX} bytes")
    return path


def _invalid(path: str, expected: str, hint: str | None = None) -> Invalid:
    shown = path if len(path) <= 200 else path[:200] + "…"
    return Invalid(f"path {shown!r}", expected=expected, hint=hint)


def check_prefix(prefix: str) -> str:
    """Return a directory prefix without its trailing '/'; '' is the root."""
    check("path", prefix, str)
    stripped = prefix.rstrip("/")
    return check_path(stripped) if stripped else ""


def subtree_range(directory: str) -> tuple[str, str | None]:
    """Return the half-open range [low, high) of the paths below a directory; None is no bound."""
    if not directory:
        return "", None
    # '0' is the character after '/', so the range holds exactly the paths that start with 'dir/'.
    return f"{directory}/", f"{directory}0"


def parents(path: str) -> list[str]:
    """Return the directories above a path, outermost first, without the root."""
    pieces = path.split("/")[:-1]
    return ["/".join(pieces[: count + 1]) for count in range(len(pieces))]
