"""Shell completion: the scripts load in the real shells and know commands, options and paths."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.patience import PATIENCE_SECONDS
from tests.support.silent import silenced

# What bash itself does when somebody presses the key, without a terminal.
PRESS = """
PATH={bin}:$PATH
source <(lakefeed completion bash)
press() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    "$(complete -p lakefeed | sed 's/.*-F \\([^ ]*\\).*/\\1/')" lakefeed
    printf '%s\\n' "${{COMPREPLY[@]}}"
}}
press {words}
"""


@pytest.fixture
def press(tmp_path: Path) -> object:
    """Complete a command line in bash and return the words it offers."""
    program = tmp_path / "bin/lakefeed"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lakefeed "$@"\n')
    program.chmod(0o755)

    def complete(words: str) -> list[str]:
        script = PRESS.format(bin=program.parent, words=words)
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split("\n")[:-1]

    return complete


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("lakefeed mk", {"mkdir"}),
        ("lakefeed find LAKE --max", {"--max-size"}),
        ("lakefeed ls LAKE ''", {"a/", "empty/", "link", "top.csv"}),
        ("lakefeed cat LAKE a/", {"a/b.txt", "a/c/"}),
        ("lakefeed cat LAKE a/c/d", {"a/c/d.bin"}),
        ("lakefeed cat /nowhere a", {""}),
        ("lakefeed completion ''", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes(press, lake: Path, words: str, offered: set[str]) -> None:  # type: ignore[no-untyped-def]
    assert set(press(words.replace("LAKE", str(lake)))) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert "_LAKEFEED_COMPLETE=complete_" + shell in done.out
    if shutil.which(shell):
        subprocess.run(
            [shell, "-n"], input=done.out, text=True, check=True, timeout=PATIENCE_SECONDS
        )


@pytest.mark.slow
def test_a_volume_that_does_not_answer_completes_to_nothing(  # type: ignore[no-untyped-def]
    press, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in silenced(tmp_path / "silent", lake / "lake.json").items():
        monkeypatch.setenv(name, value)
    assert press(f"lakefeed cat {lake} ''") == [""]
