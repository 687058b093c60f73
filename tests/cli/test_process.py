"""The program as a process: streams, signals, pipes, start-up."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lakefeed
from lakefeed import Lake
from tests.cli.conftest import FILES, Run, command
from tests.cli.test_output import needs_script
from tests.support.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

# A failed attempt is listed too, so for pandas look at what it loads itself.
NEVER = {"tensorflow", "keras", "torch", "jax", "pandas.core", "polars", "duckdb", "matplotlib"}


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in bash, with $LAKEFEED as the program."""
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**os.environ, "LAKEFEED": shlex.join(command()), **environment},
    )


def loaded_by(*arguments: str | Path) -> set[str]:
    """The modules that a command loads, or tries to."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command(*arguments)[1:]],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(re.findall(r"^import time:.*\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE))


def test_facts_go_to_stdout_and_complaints_to_stderr(process: Run, lake: Path) -> None:
    done = process("ls", lake)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == ["a/", "empty/", "link", "top.csv"]
    wrong = process("ls", lake, "none")
    assert (wrong.code, wrong.out) == (3, "")
    assert wrong.err.startswith("error: not found: 'none'")


def test_a_stdin_that_is_closed_is_said(lake: Path) -> None:
    done = shell(f"$LAKEFEED put {lake} - x <&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert "stdin, expected something to read, found it is closed" in done.stderr


def test_bytes_travel_through_the_streams(process: Run, lake: Path) -> None:
    data = bytes(range(256)) * 1000
    assert process("put", lake, "-", "x.bin", stdin=data).code == 0
    assert process("cat", lake, "x.bin").data == data


def test_a_pipe_gets_neither_colours_nor_progress(process: Run, lake: Path, tmp_path: Path) -> None:
    assert process("tag", lake, "v1").code == 0
    for words in (["tag", lake], ["get", "-r", lake, "a", tmp_path / "out"], ["log", lake]):
        done = process(*words)
        assert done.code == 0
        assert "\x1b" not in done.out
        assert done.err == ""


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as made, made.writer() as writer:
        for number in range(6000):
            writer.put(f"a-directory-with-a-long-name/{number:08d}", b"")
    for words in ("ls -R", "find -l", "find --json"):
        verb, _, options = words.partition(" ")
        script = f'$LAKEFEED {verb} {where} {options} | head -n 1; echo "${{PIPESTATUS[0]}}" >&2'
        done = shell(script)
        assert done.stdout.count("\n") == 1
        assert done.stderr == "141\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_gets_all_of_it(lake: Path, unbuffered: str) -> None:
    data = bytes(range(256)) * 4000
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("big", data)
        for number in range(3000):
            writer.put(f"a-directory-with-a-long-name/{number:08d}", b"")
    slow = "(dd bs=1 count=1 status=none >/dev/null; cat)"
    listed = shell(f"$LAKEFEED find {lake} | {slow} | wc -l", PYTHONUNBUFFERED=unbuffered)
    assert listed.stdout.strip() == str(3000 + 1 + len(FILES) + 1)
    sent = shell(f"$LAKEFEED cat {lake} big | {slow} | wc -c", PYTHONUNBUFFERED=unbuffered)
    assert int(sent.stdout) == len(data) - 1


def test_closed_streams_are_no_bug(lake: Path) -> None:
    assert shell(f"$LAKEFEED ls {lake} >&-").returncode == 0
    done = shell(f"$LAKEFEED ls {lake} none 2>&-")
    assert (done.returncode, done.stdout) == (3, "")


def test_names_are_utf_8_whatever_the_locale_says(lake: Path, tmp_path: Path) -> None:
    """Of a locale that Python has everywhere: "ascii", once its UTF-8 mode is forbidden."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "é").write_text("e")
    other = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for words in (f"import {tmp_path}/plain {lake}", f"mv {lake} é ü", f"get {lake} ü {tmp_path}"):
        done = shell(f"$LAKEFEED {words}", **other)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert (tmp_path / "ü").read_text() == "e"


def test_a_full_output_is_named(lake: Path) -> None:
    for words in (f"ls {lake}", "--version", "--help", "ls --help"):
        done = shell(f"$LAKEFEED {words} > /dev/full")
        assert done.returncode == 6, words
        assert done.stderr.startswith("error: volume failed: "), words
        assert "no space left" in done.stderr, words


@pytest.mark.parametrize("nobody", ["/dev/full", "&-"])
def test_complaints_that_nobody_takes_leave_the_exit_code_as_it_is(
    lake: Path, nobody: str, tmp_path: Path
) -> None:
    for words, code in (
        (f"ls {lake} none", 3),
        (f"--debug ls {lake} none", 3),
        ("ls", 2),
        (f"get -r {lake} a {tmp_path}/got", 0),
    ):
        assert shell(f"$LAKEFEED {words} 2>{nobody}").returncode == code, words


def test_ctrl_c_is_one_line_while_the_commands_are_imported() -> None:
    script = """
import sys
class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Importing())
import lakefeed.cli.mount_helper
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")


def test_ctrl_c_is_one_line_before_there_is_a_command() -> None:
    script = """
import sys
from lakefeed.cli import main
def app(**options):
    raise KeyboardInterrupt
sys.modules["lakefeed.cli.app"].app = app
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")


@pytest.mark.parametrize("sent_mebibytes", [1, 70], ids=["in memory", "streamed"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_put_leaves_the_lake_as_it_was(
    lake: Path, number: signal.Signals, code: int, sent_mebibytes: int
) -> None:
    before = sorted(path for path in lake.rglob("*") if path.is_file())
    child = subprocess.Popen(
        command("put", lake, "-", "half"), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None
    # More than a pipe holds: once this returns, the program is reading.
    for _ in range(sent_mebibytes):
        child.stdin.write(bytes(1 << 20))
    child.stdin.flush()
    child.send_signal(number)
    _, err = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == code, err.decode()
    assert b"Traceback" not in err
    assert sorted(path for path in lake.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["weakref.finalize(it, stop)", "Last.__del__ = stop"])
def test_a_signal_inside_a_finalizer_is_heard(
    number: signal.Signals, code: int, where: str
) -> None:
    # What a handler raises there is lost: Python only prints it.
    script = f"""
import os, sys, time, weakref
from lakefeed.cli import common, stopping

class Last: ...

def stop(*_):
    os.kill(os.getpid(), {int(number)})
    for _ in range(1000): pass

stopping.hear_signals()
try:
    it = Last()
    {where}
    del it
    print("let go", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(common.EXIT_INTERRUPTED)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "let go\n", "")


def test_names_with_odd_characters_survive(process: Run, lake: Path) -> None:
    name = "späße/a b\n\x1b[31m'\"$(x)"
    assert process("put", lake, "-", name, stdin=b"odd").code == 0
    assert process("cat", lake, name).data == b"odd"
    assert process("find", lake, "späße", "-0").data.decode() == f"{name}\0"
    assert process("find", lake, "späße", "--json").json["path"] == name
    elsewhere = process("find", lake, "späße", PYTHONIOENCODING="latin-1", LC_ALL="C")
    assert elsewhere.data.decode() == f"{name}\n"


@needs_script
def test_local_names_that_are_no_text_are_escaped(process: Run, lake: Path, tmp_path: Path) -> None:
    target = tmp_path / os.fsdecode(b"out\xff")
    done = process("get", lake, "a/b.txt", target)
    assert (done.code, done.out) == (0, f"a/b.txt (6 B) to {tmp_path}/out\\udcff\n")
    assert process("get", lake, "a/b.txt", target, "--json").json["target"] == str(target)


def test_a_terminal_gets_no_control_characters(lake: Path) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("bad/\x1b[31mred", b"")
    done = shell(f'script -qec "$LAKEFEED ls {lake} bad" /dev/null')
    assert done.stdout.replace("\r", "") == "\\x1b[31mred\n"


def test_the_script_and_the_module_are_one_program(process: Run) -> None:
    done = process("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("lakefeed ")
    assert "Usage: lakefeed " in process("ls").err


def test_run_as_a_file_it_finds_what_python_was_told_of(tmp_path: Path) -> None:
    """As the daemon of a mount is run; with a safe path Python puts no directory first."""
    (tmp_path / "typer.py").write_text("raise SystemExit('asked first')")
    file = Path(lakefeed.__file__).with_name("__main__.py")
    done = subprocess.run(
        [sys.executable, file, "--version"],
        check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": f"{tmp_path}:{file.parents[1]}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "asked first\n")


def test_starting_loads_nothing_heavy(lake: Path) -> None:
    assert not loaded_by("--version") & (NEVER | {"pyarrow", "numpy", "rich"})
    assert not loaded_by("--help") & (NEVER | {"pyarrow", "numpy", "rich"})
    modules = loaded_by("ls", lake)
    assert "pyarrow" in modules
    assert not modules & (NEVER | {"rich"})
    for words in (["cat", lake, "a/b.txt"], ["rm", lake, "a/b.txt"], ["fsck", lake]):
        assert not loaded_by(*words) & NEVER


def test_a_command_reads_while_others_write(process: Run, lake: Path) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("late", b"1").wait()
        assert process("cat", lake, "late").data == b"1"
    assert process("cat", lake, "top.csv").data == FILES["top.csv"]
