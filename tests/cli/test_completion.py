"""Shell completion: the scripts load in the real shells and know commands, options and paths."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from string import ascii_lowercase

import pytest

from lakefeed import Lake
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


# What a shell at a terminal is told first. Completion asks it; what is typed in the end
# meets a function, which shows the words that the program would have got.
LOADED = {
    "bash": "source <(lakefeed completion bash)",
    "zsh": "autoload -U compinit; compinit -D; source <(lakefeed completion zsh)",
    "zsh, installed": """mkdir functions; lakefeed completion zsh > functions/_lakefeed
fpath=($PWD/functions $fpath); autoload -U compinit; compinit -D""",
}
START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
SHOWN = """lakefeed() { printf 'WORDS'; printf '<%s>' "$@"; }; PS1='READ''Y'"""

# A shell that evaluated one of the last would make the file `taken`.
ODD = [
    'two  spaces, it\'s "$HOME" \\ * [br] (p) {a,b} ; & ~ # ü %s =!',
    "*",
    "$(touch taken)",
    "\\$(touch taken)",
    "\\`touch taken`",
]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program, as what a shell finds in its PATH."""
    made = tmp_path / "bin/lakefeed"
    made.parent.mkdir()
    made.write_text(f'#!/bin/sh\nexec {sys.executable} -m lakefeed "$@"\n')
    made.chmod(0o755)
    return made


def typed(shell: str, keys: list[str], home: Path, program: Path) -> str:
    """Return all that a terminal shows while lines of keys are typed to a shell in `home`."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "TERM": "dumb"}
    with subprocess.Popen(
        START[shell.split(",")[0]],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=home,
        env=environment,
        start_new_session=True,
    ):
        os.close(theirs)
        os.write(ours, f"{LOADED[shell]}\n{SHOWN}\n".encode())
        seen = b""
        for line in [*keys, "exit"]:
            prompts = seen.count(b"READY")
            while seen.count(b"READY") == prompts:
                seen += os.read(ours, 65536)
            os.write(ours, f"{line}\n".encode())
        # An error once the shell is gone, and with it the terminal's other end.
        with contextlib.suppress(OSError):
            while True:
                seen += os.read(ours, 65536)
    os.close(ours)
    return seen.decode()


@pytest.fixture
def press(program: Path) -> object:
    """Complete a command line in bash and return the words it offers."""

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


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A lake with a file of each odd name, each behind a letter of its own."""
    with Lake.create(tmp_path / "odd") as made, made.writer() as writer:
        for letter, name in zip(ascii_lowercase, ODD, strict=False):
            writer.put(f"d/{letter}{name}", b"")
        for name in ("line\nbreak", "esc\x1b[2J"):
            writer.put(f"e/{name}", b"")
        writer.put("e/plain", b"")
    return tmp_path / "odd"


@pytest.mark.slow
@pytest.mark.parametrize("shell", LOADED)
def test_a_path_is_one_word_whatever_it_is_called(
    shell: str, odd: Path, tmp_path: Path, program: Path
) -> None:
    if not shutil.which(shell.split(",")[0]):
        pytest.skip(f"needs {shell}")
    letters = ascii_lowercase[: len(ODD)]
    keys = [f"lakefeed cat {odd} d/{letter}\t" for letter in letters]
    seen = typed(shell, [*keys, f"lakefeed ls {odd} d\t", "lakefeed mkd\t"], tmp_path, program)
    paths = [f"d/{letter}{name}" for letter, name in zip(letters, ODD, strict=True)]
    assert [path for path in paths if f"WORDS<cat><{odd}><{path}>" not in seen] == []
    assert f"WORDS<ls><{odd}><d/>" in seen
    assert "WORDS<mkdir>" in seen
    assert not (tmp_path / "taken").exists()


@pytest.mark.slow
def test_fish_completes(odd: Path, tmp_path: Path, program: Path) -> None:
    if not shutil.which("fish"):
        pytest.skip("needs fish")
    lines = [f"lakefeed cat {odd} d/", "lakefeed mkd", f"lakefeed find {odd} --max"]
    script = ["lakefeed completion fish | source", *(f"complete -C '{line}'" for line in lines)]
    done = subprocess.run(
        ["fish", "--no-config", "-c", "\n".join(script)],
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    words = [line.split("\t")[0] for line in done.stdout.splitlines()]
    paths = [f"d/{letter}{name}" for letter, name in zip(ascii_lowercase, ODD, strict=False)]
    assert (sorted(words), done.stderr) == (sorted([*paths, "mkdir", "--max-size"]), "")
    assert not (tmp_path / "taken").exists()


@pytest.mark.slow
def test_names_that_no_line_can_show_are_left_out(press, odd: Path) -> None:  # type: ignore[no-untyped-def]
    assert press(f"lakefeed cat {odd} e/") == ["e/plain"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert "_LAKEFEED_COMPLETE=complete_" in done.out
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
