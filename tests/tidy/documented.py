"""What the documents owe their reader: pure functions from texts to what is missing in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

# A Prometheus name has at least two words after the product: unit and idea.
METRIC = re.compile(r"lakefeed(_[a-z0-9]+){2,}")


def error_classes(source: str) -> set[str]:
    """The public exception classes of errors.py."""
    classes = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)}

    def is_error(name: str) -> bool:
        bases = [ast.unparse(base) for base in classes[name].bases] if name in classes else []
        return name.endswith(("Error", "Exception")) or any(is_error(base) for base in bases)

    return {name for name in classes if not name.startswith("_") and is_error(name)}


def metrics(source: str) -> set[str]:
    """Every string in the source that is the name of a metric."""
    return {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and METRIC.fullmatch(node.value)
    }


def missing(names: Iterable[str], text: str) -> list[str]:
    """The names that the text does not mention as whole words."""
    return sorted(n for n in names if not re.search(rf"(?<![\w-]){re.escape(n)}(?![\w-])", text))
