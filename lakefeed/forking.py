"""What a forked child can go on with: locks that are free, values that are kept without any.

A fork copies a lock as it is, but not the thread that holds it, so a child would wait for it for
ever. Here locks are given free to every child. That is sound where whatever a lock guards is of use
between any two steps of whoever changes it: what is half done shows nowhere yet.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

_Value = TypeVar("_Value")
_LOCKS: weakref.WeakSet[threading.Lock] = weakref.WeakSet()


def new_lock() -> threading.Lock:
    """Return a lock that nobody holds in a forked child."""
    lock = threading.Lock()
    _LOCKS.add(lock)
    return lock


def _free_locks() -> None:
    for lock in list(_LOCKS):
        if lock.locked():
            lock.release()


class Lazy(Generic[_Value]):
    """A property that is computed on first need and kept, maybe by several threads at once: what
    the first of them found is what all get.

    `functools.cached_property` is the same from Python 3.12 on; before, it holds one lock for all
    objects of a class meanwhile.
    """

    def __init__(self, compute: Callable[[Any], _Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Lazy[_Value]: ...
    @overload
    def __get__(self, owner: object, kind: type) -> _Value: ...
    def __get__(self, owner: object | None, kind: type) -> Lazy[_Value] | _Value:
        if owner is None:
            return self
        value: _Value = owner.__dict__.setdefault(self._name, self._compute(owner))
        return value


os.register_at_fork(after_in_child=_free_locks)
