"""CRC-32C (RFC 3720), by the `crc32c` wheel: 14 to 25 GB/s, and it takes any buffer.

The wheel's package imports `importlib.metadata`, and with it the e-mail parsers, to know its own
version: a tenth of the time it takes to open a lake. So its extension module is loaded alone.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType

_PACKAGE = "crc32c"


def _load() -> ModuleType:
    package = find_spec(_PACKAGE)
    places = None if package is None else package.submodule_search_locations
    spec = None if places is None else PathFinder.find_spec(f"_{_PACKAGE}", list(places))
    if spec is None or spec.loader is None:
        return import_module(_PACKAGE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


crc32c: Callable[..., int] = _load().crc32c
