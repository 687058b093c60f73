"""Where the sources are and what each module is called; the checkers never touch the disk."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python_files(*folders: str) -> list[Path]:
    """Every Python file under the given top folders, as paths from the root, in order."""
    found = [
        path.relative_to(ROOT)
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    ]
    return sorted(found)


def module_name(path: Path) -> str:
    """`lakefeed/lake/log.py` is `lakefeed.lake.log`; a package's `__init__` is the package."""
    parts = list(path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read(path: Path) -> str:
    """The text of a file named from the root."""
    return (ROOT / path).read_text(encoding="utf-8")
