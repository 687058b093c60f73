"""What no command needs, and does not load for that reason: pandas.

pyarrow loads it of its own accord; a command asks it not to before it opens a lake.
"""

from __future__ import annotations

import sys


class _NoPandas:
    """An import finder in whose presence there is no pandas."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def spare_pandas() -> None:
    """Let pyarrow of this process do without pandas.

    pyarrow looks for pandas once, when it converts its first Python list, and loads it where it is
    installed: 0.2 s and 40 MB that no command needs. Others may still import pandas afterwards.
    """
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)
