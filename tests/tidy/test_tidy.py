"""Sizes, banned calls and leftovers, counted so that no reviewer has to."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from tests.tidy.rules import banned, functions, leftovers, lengthy_module, parameters, shape
from tests.tidy.sources import ROOT, python_files, read

PRODUCT = python_files("lakefeed")
REST = python_files("tests", "benchmarks", "deploy", "docs")
TEXTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "Makefile", "pyproject.toml", "docs/**/*.md", ".ci/*")
    for path in ROOT.glob(pattern)
)

# Functions that may take more than five parameters, and why. Keep it short.
WIDE: dict[str, dict[str, str]] = {
    "lakefeed/adapters/fuse/writing.py": {"WriteOperations.rename": "pyfuse3 calls it so"},
}


def is_cli(path: Path) -> bool:
    return path.parts[:2] == ("lakefeed", "cli")


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_a_module_keeps_its_size(path: Path) -> None:
    broken = shape(read(path), is_cli=is_cli(path), wide=WIDE.get(str(path), {}))
    assert not broken, "\n".join(f"{path} {line}" for line in broken)


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_a_module_calls_nothing_banned(path: Path) -> None:
    broken = banned(read(path), is_cli=is_cli(path))
    assert not broken, "\n".join(f"{path} {line}" for line in broken)


@pytest.mark.parametrize("path", REST, ids=str)
def test_a_test_or_tool_keeps_its_size(path: Path) -> None:
    broken = list(lengthy_module(read(path)))
    assert not broken, "\n".join(f"{path} {line}" for line in broken)


@pytest.mark.parametrize("path", [*PRODUCT, *REST, *TEXTS], ids=str)
def test_nothing_is_left_for_later(path: Path) -> None:
    broken = leftovers(read(path))
    assert not broken, "\n".join(f"{path} {line}" for line in broken)


@pytest.mark.parametrize("path", [Path(name) for name in WIDE], ids=str)
def test_an_excuse_is_still_needed(path: Path) -> None:
    if not (ROOT / path).exists():
        pytest.skip(f"{path} is not there yet")
    tree = ast.parse(read(path))
    found = {name: parameters(node, owner) for name, node, owner in functions(tree)}
    for name in WIDE[str(path)]:
        assert len(found.get(name, [])) > 5, f"{path}: {name} needs no excuse any more"


def lines(count: int) -> str:
    return "    x = 1\n" * count


DOC = '"""Idea."""\n'


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (DOC + "x = 1\n" * 400, "401 lines, at most 400"),
        ("x = 1\n", "no module docstring"),
        (DOC + "def f():\n" + lines(50), "f has 51 lines"),
        (DOC + "async def f():\n" + lines(50), "f has 51 lines"),
        (DOC + "class C:\n    def f(self):\n" + "        x = 1\n" * 50, "C.f has 51 lines"),
        (DOC + "def f(a, b, c, d, e, g): ...\n", "f takes 6 parameters"),
        (DOC + "def f(a, /, b, c, *, d, e, g): ...\n", "f takes 6 parameters"),
        (DOC + "class C:\n    def f(self, a, b, c, d, e, g): ...\n", "C.f takes 6"),
        (DOC + "class C:\n    @staticmethod\n    def f(a, b, c, d, e, g): ...\n", "C.f takes 6"),
        (DOC + "if True:\n    def f(a, b, c, d, e, g): ...\n", "f takes 6 parameters"),
        (DOC + "def g():\n    def f(a, b, c, d, e, h): ...\n", "g.f takes 6 parameters"),
    ],
)
def test_a_bad_shape_is_found(source: str, reason: str) -> None:
    broken = shape(source, is_cli=False, wide={})
    assert len(broken) == 1
    assert reason in broken[0]


@pytest.mark.parametrize(
    "source",
    [
        DOC + "x = 1\n" * 399,
        DOC + "def f():\n" + '    """' + "Long.\n" * 60 + '    """\n' + lines(49),
        DOC + "def f(a, b, c, d, e, *rest, **more): ...\n",
        DOC + "class C:\n    def f(self, a, b, c, d, e): ...\n",
        DOC + "class F(spec.AbstractBufferedFile):\n"
        "    def __init__(self, fs, path, mode, size, cache, options): ...\n",
    ],
)
def test_a_good_shape_is_not_found(source: str) -> None:
    assert shape(source, is_cli=False, wide={}) == []


def test_only_a_command_may_have_many_parameters() -> None:
    source = DOC + "@app.command()\ndef f(a, b, c, d, e, g): ...\n"
    assert shape(source, is_cli=True, wide={}) == []
    assert shape(source, is_cli=False, wide={})
    assert shape(DOC + "def f(a, b, c, d, e, g): ...\n", is_cli=True, wide={})


def test_an_excuse_names_its_function() -> None:
    source = DOC + "def f(a, b, c, d, e, g): ...\ndef h(a, b, c, d, e, g): ...\n"
    broken = shape(source, is_cli=False, wide={"f": "why"})
    assert len(broken) == 1
    assert "h takes 6" in broken[0]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("try:\n    f()\nexcept Exception:\n    pass\n", "vanishes"),
        ("try:\n    f()\nexcept:\n    pass\n", "vanishes"),
        ("try:\n    f()\nexcept BaseException:\n    ...\n", "vanishes"),
        ("try:\n    f()\nexcept (OSError, Exception):\n    pass\n", "vanishes"),
        ("for x in y:\n    try:\n        f()\n    except Exception:\n        continue\n", "vanish"),
        ("import time\ntime.sleep(1)\n", "line 2: time.sleep"),
        ("from time import sleep\n", "line 1: time.sleep"),
        ("if hasattr(self, 'lock'): ...\n", "hasattr"),
        ("x = getattr(self, 'lock', None)\n", "getattr with a literal name"),
        ("setattr(self, 'lock', 1)\n", "setattr with a literal name"),
        ("import os\nx = os.environ['HOME']\n", "line 2: the environment"),
        ("import os\nx = os.getenv('HOME')\n", "line 2: the environment"),
        ("from os import environ\n", "the environment"),
        ("print('hello')\n", "print: return the value"),
        ("class C:\n    def __del__(self): ...\n", "line 2: __del__"),
        ("x = column.type.to_pandas_dtype()\n", "line 1: to_pandas_dtype needs pandas"),
    ],
)
def test_a_banned_call_is_found(source: str, reason: str) -> None:
    broken = banned(source, is_cli=False)
    assert len(broken) == 1
    assert reason in broken[0]


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    f()\nexcept FileNotFoundError:\n    pass\n",
        "try:\n    f()\nexcept Exception as error:\n    raise VolumeFailed('x') from error\n",
        "from time import monotonic\n",
        "import os\nif hasattr(os, 'preadv'): ...\n",
        "x = getattr(row, column)\n",
        "object.__setattr__(self, 'x', 1)\n",
        "event.wait(timeout)\n",
    ],
)
def test_a_good_call_is_not_found(source: str) -> None:
    assert banned(source, is_cli=False) == []


def test_the_cli_prints_and_reads_the_environment_and_still_may_not_sleep() -> None:
    assert banned("import os\nprint(os.environ)\n", is_cli=True) == []
    assert banned("import time\ntime.sleep(1)\n", is_cli=True)


def test_a_note_to_self_is_found() -> None:
    text = textwrap.dedent(
        f"""
        # {"TO" + "DO"}: later
        x = 1  # {"FIX" + "ME"}
        name = "tmp.XXXXXX"
        """
    )
    assert [line.split(":")[0] for line in leftovers(text)] == ["line 2", "line 3"]
