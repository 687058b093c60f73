"""What a caller gives is of the type that its annotation says, or Invalid: an error that names the
option, what was expected and what was found, before something deep inside runs into it.

`check_fields` is for the `__post_init__` of options, `check` for arguments. Both go by what a value
can do: numpy's numbers are numbers, a list of names is as good as a tuple. Neither looks at what a
value says (a range, a spelling); that is left to whoever knows.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence, Set
from dataclasses import fields
from enum import Enum, EnumMeta
from functools import lru_cache
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

import numpy as np

from lakefeed.errors import Invalid

# A few lines of a terminal; a value may be a payload.
_SHOWN_MAX = 200
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False",
          NoneType: "None", os.PathLike: "a path", Callable: "a function"}  # fmt: skip
# What has the makings of a type without being of it.
_AS_GOOD: dict[Any, Any] = {float: Real, bool: bool | np.bool_, tuple: Sequence,
                            frozenset: Set | Sequence}  # fmt: skip


def check(name: str, value: object, hint: Any, expected: str | None = None) -> None:
    """Invalid unless a value fits an annotation; `expected` says in better words what does."""
    if type(value) is not hint and not _fits(value, hint):
        shown = repr(value)
        found = shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}…"
        raise Invalid(name, expected=expected or _described(hint), found=found)


def check_fields(options: Any, prefix: str = "") -> None:
    """Invalid for a field of a dataclass that does not fit its annotation; `prefix` says whose.

    Whole numbers become Python's own: states are made of them, and JSON would tell 1 from True. The
    number of a kind becomes that very kind, which is asked for by `is`.
    """
    kind: Any = type(options)
    for name, hint in _hints(kind).items():
        value = getattr(options, name)
        check(f"{prefix}{name}", value, hint)
        if isinstance(hint, EnumMeta):
            object.__setattr__(options, name, hint(value))
        elif int in (hint, *get_args(hint)) and _is_whole(value):
            object.__setattr__(options, name, int(operator.index(value)))


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: object, hint: Any) -> bool:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Any, object):
        return True
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return isinstance(value, str) and value in parts
    if kind is int:
        return _is_whole(value)
    if issubclass(kind, Enum):
        return value in list(kind)
    if Protocol in kind.__bases__:
        names = (name for name in vars(kind) if not name.startswith("_"))
        return all(getattr(value, name, None) is not None for name in names)
    if kind is tuple or kind is frozenset:
        is_one = isinstance(value, _AS_GOOD[kind]) and not isinstance(value, str)
        return is_one and _hold(value, parts)
    return isinstance(value, _AS_GOOD.get(kind, kind))


def _is_whole(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _hold(values: Any, parts: tuple[Any, ...]) -> bool:
    """Tell whether the values of a tuple or a set fit: (int, int) or (str, ...) or (Kind,)."""
    if len(parts) == 1 or parts[1] is ...:
        return all(_fits(value, parts[0]) for value in values)
    return len(values) == len(parts) and all(map(_fits, values, parts))


def _described(hint: Any) -> str:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType, Literal):
        words = [f'"{part}"' if kind is Literal else _described(part) for part in parts]
        return " or ".join([", ".join(words[:-1]), words[-1]])
    if kind is tuple and parts[-1] is not ...:
        return f"({', '.join(map(_described, parts))})"
    if kind is tuple or kind is frozenset:
        return f"{kind.__name__} of {_described(parts[0])}"
    return _WORDS[kind] if kind in _WORDS else str(kind.__name__)
