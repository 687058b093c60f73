"""The style rules that a machine can count: pure functions from source text to findings.

Each finding reads `line N: what is wrong: what to do instead`. A rule that cannot be broken on
purpose in `test_tidy.py` is not a rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50
PARAMETERS_MAX = 5

# Spelled in halves, so that this file passes its own rule.
LEFTOVERS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")

# fsspec calls these constructors by position and keyword: their shape is not ours to choose.
DICTATED_BASES = ("AbstractFileSystem", "AbstractBufferedFile")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def shape(source: str, *, is_cli: bool, wide: Mapping[str, str]) -> list[str]:
    """Broken size rules; `wide` names functions excused from the parameter cap, with the reason."""
    tree = ast.parse(source)
    found = [*lengthy_module(source), *undocumented(tree)]
    for name, function, owner in functions(tree):
        found += lengthy_function(name, function)
        excused = name in wide or (is_cli and is_command(function)) or is_dictated(function, owner)
        if not excused:
            found += crowded(name, function, owner)
    return found


def lengthy_module(source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > MODULE_LINES_MAX:
        yield f"line 1: {lines} lines, at most {MODULE_LINES_MAX}: look for the two ideas inside"


def undocumented(tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "line 1: no module docstring: say the idea, what it keeps, what it leaves to others"


def lengthy_function(name: str, function: Function) -> Iterator[str]:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    if lines > FUNCTION_LINES_MAX:
        yield (
            f"line {function.lineno}: {name} has {lines} lines without its docstring, at most "
            f"{FUNCTION_LINES_MAX}: decide in one function, do in another"
        )


def crowded(name: str, function: Function, owner: ast.ClassDef | None) -> Iterator[str]:
    count = len(parameters(function, owner))
    if count > PARAMETERS_MAX:
        yield (
            f"line {function.lineno}: {name} takes {count} parameters, at most {PARAMETERS_MAX}: "
            "they want to be a frozen dataclass"
        )


def functions(
    tree: ast.AST, prefix: str = "", owner: ast.ClassDef | None = None
) -> Iterator[tuple[str, Function, ast.ClassDef | None]]:
    """(qualified name, function, class it is a method of) for every function, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node, owner
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.", node)
        else:
            yield from functions(node, prefix, owner)


def parameters(function: Function, owner: ast.ClassDef | None) -> list[str]:
    """The parameters a caller can fill; `self`, `cls`, *args and **kwargs do not count."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    static = any(
        isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list
    )
    return names[1:] if owner and not static else names


def is_command(function: Function) -> bool:
    """Whether Typer calls it: each parameter is then one flag of a command."""
    calls = [mark.func for mark in function.decorator_list if isinstance(mark, ast.Call)]
    return any(isinstance(c, ast.Attribute) and c.attr in {"command", "callback"} for c in calls)


def is_dictated(function: Function, owner: ast.ClassDef | None) -> bool:
    bases = [ast.unparse(base).split(".")[-1] for base in owner.bases] if owner else []
    return function.name == "__init__" and any(base in DICTATED_BASES for base in bases)


def banned(source: str, *, is_cli: bool) -> list[str]:
    """Calls and statements the product does not use, each with what to use instead."""
    tree = ast.parse(source)
    modules = imported_modules(tree)
    found = []
    for node in ast.walk(tree):
        wrong = (
            swallowed(node)
            or sleeping(node)
            or attribute_by_name(node, modules)
            or (None if is_cli else environment(node))
            or (None if is_cli else printing(node))
            or finalizer(node)
            or needing_pandas(node)
        )
        if wrong:
            found.append(f"line {getattr(node, 'lineno', 1)}: {wrong}")
    return found


def imported_modules(tree: ast.Module) -> set[str]:
    """Local names that `import x` binds to modules."""
    return {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }


def swallowed(node: ast.AST) -> str | None:
    if not isinstance(node, ast.ExceptHandler):
        return None
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    broad = any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})
        for kind in kinds
    )
    silent = all(
        isinstance(step, ast.Pass | ast.Continue)
        or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
        for step in node.body
    )
    if broad and silent:
        return "an exception of any kind vanishes: catch the one you can act on"
    return None


def sleeping(node: ast.AST) -> str | None:
    advice = "time.sleep: wait on the event, with a deadline"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep":
        return advice
    if isinstance(node, ast.ImportFrom) and node.module == "time":
        return advice if any(alias.name == "sleep" for alias in node.names) else None
    return None


def attribute_by_name(node: ast.AST, modules: set[str]) -> str | None:
    """Attributes as state; asking an imported module what this platform has is allowed."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
        return None
    if isinstance(node.args[0], ast.Name) and node.args[0].id in modules:
        return None
    name = node.func.id
    literal = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    if name == "hasattr":
        return "hasattr: give the attribute a value in the constructor and test that"
    if name in {"getattr", "setattr", "delattr"} and literal:
        return f"{name} with a literal name: write the attribute, so that mypy sees it"
    return None


def environment(node: ast.AST) -> str | None:
    advice = "the environment: only the CLI reads it; take what you need as an argument"
    if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}:
        return advice
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        names = {alias.name for alias in node.names}
        return advice if names & {"environ", "getenv"} else None
    return None


def printing(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
        return "print: return the value; the CLI prints"
    return None


def finalizer(node: ast.AST) -> str | None:
    if isinstance(node, ast.FunctionDef) and node.name == "__del__":
        return "__del__ runs at a time nobody chose: use `with` and close()"
    return None


def needing_pandas(node: ast.AST) -> str | None:
    """Arrow's ways to pandas, which is no dependency: before 26 one begins at a type's name."""
    if isinstance(node, ast.Attribute) and node.attr.startswith("to_pandas"):
        return f"{node.attr} needs pandas: use format/bridge.py"
    return None


def leftovers(text: str) -> list[str]:
    """Notes to self that were meant to go before the change was whole."""
    return [
        f"line {number}: {match.group()} left behind: do it, or write it where work is planned"
        for number, line in enumerate(text.splitlines(), 1)
        for match in LEFTOVERS.finditer(line)
    ]
