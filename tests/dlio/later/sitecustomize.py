"""Python finds this first where a rank starts: TensorFlow is loaded when something of it is used.

DLIO imports it whatever the framework, for a profiler that no workload here asks for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class Later(ModuleType):
    """Stands for a module that is not loaded before it is used; being looked at is no use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # a package's submodules need that one
            raise AttributeError(name)
        if sys.modules[self.__name__] is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


sys.modules["tensorflow"] = Later("tensorflow")
