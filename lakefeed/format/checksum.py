"""CRC-32C (RFC 3720), by the `crc32c` wheel: 14 to 25 GB/s, and it takes any buffer.

The wheel's package imports `importlib.metadata`, and with it the e-mail parsers, to know its own
version: a tenth of the time it takes to open a lake. So its extension module is loaded alone.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType

_PACKAGE = "crc32c"


def _load() -> ModuleType:
    found = find_spec(_PACKAGE)
    places = None if found is None else found.submodule_search_locations
    spec = None if places is None else PathFinder.find_spec(f"_{_PACKAGE}", list(places))
    if spec is None or spec.loader is None:
        import crc32c as package  # noqa: PLC0415 - where its extension module is not found

        return package
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


crc32c: Callable[..., int] = _load().crc32c
