"""Which names of a source tree are left out: a small part of gitignore's language.

A pattern without '/' is matched against the last component, at any depth; one with '/' against the
whole path from the source's root; one that ends in '/' against directories only. `*`, `?`, `[...]`
and `**` are those of `lakefeed find`. What lies below an excluded directory is never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lakefeed.errors import Invalid
from lakefeed.lake.query import glob_to_regex


class Exclude:
    """Tells whether a path is left out."""

    def __init__(self, patterns: Sequence[str]) -> None:
        files = [_expression(p) for p in patterns if not p.endswith("/")]
        directories = [_expression(p.rstrip("/")) for p in patterns]
        self._files = re.compile("|".join(files)) if files else None
        self._directories = re.compile("|".join(directories)) if directories else None

    def __bool__(self) -> bool:
        return self._directories is not None

    def matches(self, path: str, *, is_directory: bool) -> bool:
        """Tell whether a path, relative to the source's root, is left out."""
        expression = self._directories if is_directory else self._files
        return expression is not None and expression.fullmatch(path) is not None


def _expression(pattern: str) -> str:
    """Return what must match the whole path."""
    bare = pattern.removeprefix("/")
    if not bare or pattern.startswith("!"):
        raise Invalid(
            f"pattern {pattern!r}",
            expected="a glob such as '*.tmp', 'cache/' or 'data/**/raw'",
            hint="patterns that bring files back ('!...') are not known",
        )
    glob = pattern.removeprefix("/") if "/" in pattern else f"**/{pattern}"
    # The anchors go, because alternatives are joined; DOTALL comes with the group.
    body = glob_to_regex(glob).removeprefix("(?s)^").removesuffix("$")
    try:
        re.compile(body)
    except re.error as error:
        raise Invalid(f"pattern {pattern!r}", expected="a glob", found=str(error)) from error
    return f"(?s:{body})"
