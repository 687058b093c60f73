"""`--json` prints the keys that the help names, all of them and no others, in that order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_help import COMMANDS

HELP = {path.split()[1]: command.help for path, command in COMMANDS}


def documented(name: str) -> list[list[str]]:
    """The lists of keys in a command's help; "those of ls" are the keys of ls."""
    text = " ".join(HELP[name].split())
    found = []
    for words in re.findall(r"JSON keys: (.*?)\.(?: |$)", text):
        for keys in re.split(r"; with --[a-z-]+:? ", words):
            found.append(documented("ls")[0] if keys.endswith("of ls") else keys.split(", "))
    return found


@pytest.mark.parametrize(
    ("words", "which"),
    [
        (("create", "NEW"), 0),
        (("put", "LAKE", "-", "x"), 0),
        (("get", "LAKE", "a/b.txt", "OUT"), 0),
        (("ls", "LAKE"), 0),
        (("ls", "-R", "LAKE"), 0),
        (("find", "LAKE"), 0),
        (("find", "LAKE", "--count"), 1),
        (("stat", "LAKE", "a"), 0),
        (("rm", "LAKE", "top.csv"), 0),
        (("rm", "LAKE", "top.csv", "--dry-run"), 1),
        (("mv", "LAKE", "a", "z"), 0),
        (("cp", "LAKE", "top.csv", "z"), 0),
        (("mkdir", "LAKE", "d"), 0),
        (("log", "LAKE"), 0),
        (("tag", "LAKE", "v1"), 0),
        (("tag", "LAKE", "v1", "--delete"), 0),
        (("merge", "LAKE"), 0),
    ],
)
def test_the_keys_are_the_documented_ones(
    run: Run, lake: Path, tmp_path: Path, words: tuple[str, ...], which: int
) -> None:
    if "--delete" in words:
        assert run("tag", lake, "v1").code == 0
    places = {"LAKE": lake, "NEW": tmp_path / "new", "OUT": tmp_path / "out"}
    done = run(*(places.get(word, word) for word in words), "--json")
    assert (done.code, done.err) == (0, "")
    assert done.lines
    for document in done.lines:
        assert list(document) == documented(words[0])[which]
