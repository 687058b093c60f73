"""What people see: tables, sizes, progress; and what a pipe does not see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from lakefeed.cli.common import complain
from lakefeed.cli.output import (
    Meter,
    metering,
    print_facts,
    print_json,
    print_line,
    print_lines,
    print_table,
    shown,
)
from tests.cli.conftest import command
from tests.support.patience import PATIENCE_SECONDS


def test_a_meter_counts_files_bytes_and_their_rates() -> None:
    now = [10.0]
    meter = Meter(clock=lambda: now[0])
    meter.add(size_bytes=3_000_000)
    meter.add(files=9, size_bytes=1_000_000)
    now[0] = 12.0
    assert (meter.files, meter.bytes, meter.seconds) == (10, 4_000_000, 2.0)
    assert meter.rates() == "5 files/s  2.0 MB/s"
    assert meter.summary() == "10 files, 3.8 MiB in 2.0 s: 5 files/s  2.0 MB/s"


def test_a_meter_without_a_terminal_draws_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with metering("work", total_files=3) as meter:
        meter.add()
    assert meter.files == 1
    assert capfd.readouterr() == ("", "")


def test_a_table_in_a_pipe_has_neither_rules_nor_cuts(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "size>"], [("a" * 300, 5), ("[bold]b", 12345)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["name", "size"], ["a" * 300, "5"], ["[bold]b", "12345"],
    ]  # fmt: skip
    assert len({len(line) for line in lines}) == 1


def test_no_line_of_a_table_in_a_pipe_ends_in_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["size>", "name", "note"], [(5, "a", "long"), (12345, "b", "")])
    assert capsys.readouterr().out == (
        " size  name  note\n    5  a     long\n12345  b\n"
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_that_is_wider_than_a_terminal_is_turned(width: int) -> None:
    other = r"b\x1b]"  # the name of a run is no command to the terminal
    program = (
        "from lakefeed.cli.output import print_table\n"
        "titles = ['source', *(f'figure {number}>' for number in range(9))]\n"
        f"names = ('a', '{other}')\n"
        "rows = [(name, *(f'{number}23.4 ms' for number in range(9))) for name in names]\n"
        "print_table(titles, rows, turns=True)\n"
    )
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    command_line = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": slave}
    subprocess.run(command_line, **pipes, check=True, env=environment, timeout=PATIENCE_SECONDS)
    os.close(slave)
    text = os.read(master, 1 << 16).decode()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    os.close(master)
    assert max(map(len, lines)) <= width
    words = [line.split() for line in lines]
    if width == 80:
        assert [*words[0], *words[-1]] == [
            "source",
            "a",
            other,
            "figure",
            "8",
            *["823.4", "ms"] * 2,
        ]
        assert len(lines) == 11
    else:
        assert [line[0] for line in (words[0], *words[-2:])] == ["source", "a", other]


def test_facts_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([("a", 1), ("long", "x y")])
    assert capsys.readouterr().out == "a     1\nlong  x y\n"


def test_json_is_one_line_and_keeps_letters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": "späße\n", "size": 1})
    assert capsys.readouterr().out == '{"path": "späße\\n", "size": 1}\n'


def test_no_lines_are_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines([])
    print_lines(["a", "b"])
    assert capsys.readouterr().out == "a\nb\n"


def test_a_pipe_gets_paths_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("a\n\x1b[31m") == "a\n\x1b[31m"


def test_a_path_of_usual_letters_asks_for_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> bool:
        raise AssertionError("a call to the kernel for each line of a listing")

    monkeypatch.setattr(sys.stdout, "isatty", asked)
    assert shown("späße/1.jpg") == "späße/1.jpg"


def test_a_terminal_gets_no_control_characters_of_what_volumes_and_names_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "a\x1b]0;pwn\x07\x9b31m\rb"
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    print_line(f"{hostile}\nsecond line")
    print_facts([("attrs", hostile)])
    complain(f"left out: {hostile}")
    said = capsys.readouterr()
    escaped = r"a\x1b]0;pwn\x07\x9b31m\rb"
    assert said.out == f"{escaped}\nsecond line\nattrs  {escaped}\n"
    assert said.err == f"left out: {escaped}\n"


def on_terminal(*words: str | Path, **environment: str) -> str:
    """What a command shows on a terminal of its own."""
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    line = f"env -u NO_COLOR TERM=xterm {settings} {shlex.join(command(*words))}"
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout


needs_script = pytest.mark.skipif(
    subprocess.run(["sh", "-c", "command -v script"], capture_output=True).returncode != 0,
    reason="needs script(1) to make a terminal",
)


@pytest.mark.slow
@needs_script
def test_a_terminal_shows_progress(lake: Path, tmp_path: Path) -> None:
    seen = on_terminal("get", "-r", lake, "a", tmp_path / "out")
    assert "files/s" in seen
    assert "MB/s" in seen
    quiet = on_terminal("get", "-rq", lake, "a", tmp_path / "again")
    assert "\x1b" not in quiet


@pytest.mark.slow
@needs_script
def test_what_scrub_says_stands_behind_its_bars_in_one_line(lake: Path) -> None:
    seen = on_terminal("scrub", lake, COLUMNS="40")
    bars, said, after = seen.partition("round 1 is complete; 0 damaged payloads known")
    assert "packs" in bars
    assert (said, after.strip()) == ("round 1 is complete; 0 damaged payloads known", "")


@pytest.mark.slow
@needs_script
def test_no_color_is_respected(lake: Path, tmp_path: Path) -> None:
    colour = "\x1b[3"
    seen = on_terminal("get", "-r", lake, "a", tmp_path / "out", FORCE_COLOR="1")
    assert colour in seen
    plain = on_terminal("get", "-r", lake, "a", tmp_path / "again", NO_COLOR="1")
    assert "files/s" in plain
    assert colour not in plain


@pytest.mark.slow
@needs_script
def test_top_shows_one_look_where_nothing_can_be_drawn(lake: Path) -> None:
    assert "lakefeed top" in on_terminal("top", lake, TERM="dumb")
