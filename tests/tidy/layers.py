"""Which module may import which: a pure function from a module's source to its broken rules.

Imports are read with `ast` and counted wherever they stand: at the top, inside a function, under
TYPE_CHECKING or spelled `importlib.import_module("...")`. Hiding an upward import only hides it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

# A layer imports only from lower numbers, and from itself.
LAYERS = {
    "closing": 0,
    "errors": 0,
    "forking": 0,
    "given": 0,
    "volume": 1,
    "format": 1,
    "lake": 2,
    "feed": 3,
    "transfer": 3,
    "": 4,  # lakefeed/__init__.py: the public names of the layers below
    "metrics": 5,  # every Prometheus metric, declared once; fed from the stats of the layers below
    "adapters": 6,
    "service": 6,  # the daemon: inbox, compactor, collector, scrubber
    "tf": 7,  # lakefeed.tf, .torch and .jax only re-export one adapter under a short name
    "torch": 7,
    "jax": 7,
    "bench": 8,
    "monitor": 9,  # re-exports bench's hooks for a user's own training
    "demo": 9,
    "cli": 10,
    "__main__": 11,
}

# Layers of one height that must not know each other.
STRANGERS = [
    {"volume", "format"},
    {"feed", "transfer"},
    {"adapters", "service"},
    {"tf", "torch", "jax"},
    {"monitor", "demo"},
]

# Each heavy or outside library and the only places that may import it.
OWNERS = {
    "tensorflow": ("adapters.tf", "bench", "demo"),
    "keras": ("adapters.tf", "bench", "demo"),
    "torch": ("adapters.torch", "bench"),
    "torchdata": ("adapters.torch",),
    "jax": ("adapters.jax",),
    "grain": ("adapters.grain",),
    "dlio_benchmark": ("adapters.dlio",),
    "simplejpeg": ("adapters.decode",),
    "cv2": ("adapters.decode",),
    "duckdb": ("adapters.sql",),
    "pyfuse3": ("adapters.fuse",),
    "trio": ("adapters.fuse",),
    "fsspec": ("adapters.fsspec",),
    "aiohttp": ("service",),
    "aiofiles": ("service",),
    "prometheus_client": ("metrics", "bench.watching", "bench.monitoring"),
    "pandas": (),
    "polars": (),
    "datasets": (),
    "sklearn": ("demo",),
    "PIL": ("adapters.decode", "bench", "demo"),
    "matplotlib": ("demo", "bench"),
    "plotext": ("bench",),
    "pynvml": ("bench",),
    "typer": ("cli",),
    "click": ("cli",),
    "rich": ("cli", "demo", "bench"),
}


def findings(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Every import in `source` that breaks a rule, as `line N: rule and why`."""
    layer = layer_of(module)
    if layer not in LAYERS:
        return [
            f"line 1: {module} is in no layer; put it in one, or give {layer!r} a place in LAYERS "
            "(tests/tidy/layers.py)"
        ]
    found = []
    for line, target in imported(module, source, is_package=is_package):
        broken = judge(module, target)
        if broken:
            found.append(f"line {line}: {broken}")
    return found


def judge(module: str, target: str) -> str | None:
    """The rule that `module` breaks by importing `target`, or None."""
    root = target.split(".")[0]
    if root != "lakefeed":
        return judge_outside(module, root)
    layer, other = layer_of(module), layer_of(target)
    if other not in LAYERS:
        return f"{target} is in no layer of LAYERS (tests/tidy/layers.py)"
    if LAYERS[other] > LAYERS[layer]:
        return (
            f"upward import: {layer or 'lakefeed'} may not import {target}; imports point down "
            "(errors <- volume | format <- lake <- feed <- adapters <- bench <- cli), so that a "
            "lower layer can be read, tested and used without the ones above it"
        )
    if layer != other and any({layer, other} <= pair for pair in STRANGERS):
        return (
            f"{layer} may not import {target}: {layer} and {other} do not know each other, so that "
            "bytes can be decoded without a disk and a disk used without the format"
        )
    mine, theirs = adapter_of(module), adapter_of(target)
    if theirs and not theirs.startswith("_") and mine != theirs and layer == "adapters":
        return (
            f"adapter {mine or 'package'} may not import adapter {theirs}: each adapter answers to "
            "one outside library; move what they share down a layer or into an _underscored module"
        )
    return None


def judge_outside(module: str, library: str) -> str | None:
    """The rule that `module` breaks by importing an outside library, or None."""
    if library not in OWNERS:
        return None
    owners = [f"lakefeed.{owner}" for owner in OWNERS[library]]
    if any(module == owner or module.startswith(owner + ".") for owner in owners):
        return None
    where = ", ".join(owners) or "tests and benchmarks"
    return (
        f"{library} may be imported only in {where}: everyone else would pay for loading it and "
        "break where it is not installed"
    )


def layer_of(module: str) -> str:
    """The first name below `lakefeed`; "" for the package itself and its public names."""
    parts = module.split(".")
    if len(parts) == 1:
        return ""
    # `from lakefeed import Lake` names a public class, not a module.
    return "" if parts[1][:1].isupper() or parts[1] == "__version__" else parts[1]


def adapter_of(module: str) -> str:
    """The adapter a module belongs to, or "" outside the adapters."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["adapters"] and len(parts) > 2 else ""


def imported(module: str, source: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything the source imports, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node, is_package=is_package)
            # `from lakefeed import feed` and `from lakefeed.adapters import tf` import modules.
            wide = base in {"lakefeed", "lakefeed.adapters"}
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if wide else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            name = node.args[0].value
            if called in {"import_module", "__import__"} and isinstance(name, str):
                yield node.lineno, name


def absolute(module: str, node: ast.ImportFrom, *, is_package: bool) -> str:
    """The absolute name behind `from ..x import y`."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join(base + ([node.module] if node.module else []))
