"""Every failure is one line on stderr that names the object and the next step, and an exit code."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lakefeed.cli.common import describe
from lakefeed.errors import (
    Conflict,
    Corrupt,
    Invalid,
    NotFound,
    SnapshotExpired,
    VolumeFailed,
    from_local_error,
)
from tests.cli.conftest import FILES, Ran, Run, damage
from tests.support.silent import silenced


def failed(done: Ran, code: int, *words: str) -> None:
    """One line of complaint with all the words, nothing on stdout."""
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_a_missing_lake_is_not_found(run: Run, tmp_path: Path) -> None:
    where = tmp_path / "nothing"
    failed(run("ls", where), 3, "not found", str(where), f'"lakefeed create {where}"')


@pytest.mark.parametrize("words", [["cat"], ["stat"], ["get"], ["ls"], ["rm"], ["rm", "-r"]])
def test_a_missing_path_is_not_found(run: Run, lake: Path, words: list[str]) -> None:
    failed(run(*words, lake, "a/none"), 3, "not found", "'a/none'", "snapshot 1", "lakefeed ls")


@pytest.mark.parametrize("verb", ["mv", "cp"])
def test_a_missing_source_is_not_found(run: Run, lake: Path, verb: str) -> None:
    failed(run(verb, lake, "none", "b"), 3, "'none'")


def test_a_missing_tag_is_not_found(run: Run, lake: Path) -> None:
    failed(run("ls", lake, "--at", "v9"), 3, "tag 'v9'", str(lake))
    failed(run("tag", lake, "v9", "--delete"), 3, "tag 'v9'")


def test_a_missing_snapshot_is_not_found(run: Run, lake: Path) -> None:
    failed(run("ls", lake, "--at", "7"), 3, "snapshot 7", "at most 1", "lakefeed log")


def test_a_number_of_many_digits_is_not_found(run: Run, lake: Path) -> None:
    for digits in ("9" * 30, "9" * 5000):
        failed(run("ls", lake, "--at", digits), 3, "snapshot 999", "at most 1", "lakefeed log")
        failed(run("tag", lake, "v1", "--at", digits), 3, "snapshot 999", "at most 1")
    failed(run("ls", lake, "--at", "@" + "9" * 5000), 2, "tag '@9")
    failed(run("ls", lake, "--at", "9" * 400 + "w ago"), 2, "ago'")


def test_a_path_that_a_shell_completed_to_is_refused_with_what_to_do(run: Run, lake: Path) -> None:
    failed(run("ls", lake, "/a"), 2, "'/a'", "a relative path", "leave out the '/'")
    failed(run("ls", lake, "./a"), 2, "'./a'", "write it without them")


def test_a_query_that_cannot_be_is_refused_in_words_of_one_line(run: Run, lake: Path) -> None:
    done = run("sql", lake, "select *\nfrm files where size > 1")
    failed(done, 2, "syntax error", '"lakefeed sql --help" lists the tables')
    assert "  " not in done.err
    failed(run("sql", lake, "select nam from files"), 2, '"name"', "their columns")


def test_a_missing_local_file_is_not_found(run: Run, lake: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no.jpg"
    failed(run("put", lake, missing, "no.jpg"), 3, str(missing), "on this machine", "check")


def test_a_file_of_this_machine_is_not_the_lake_owners_business() -> None:
    forbidden = from_local_error(PermissionError(errno.EACCES, ""), "/root/x")
    assert describe(forbidden) == (
        "volume failed: /root/x, found permission denied; check the path and its permissions"
    )
    assert "free space" in from_local_error(OSError(errno.ENOSPC, ""), "/x").text
    assert "inodes" in from_local_error(OSError(errno.ENOSPC, ""), "/x").text


@pytest.mark.parametrize("words", [["log"], ["put"], ["ls", "-R"]])
def test_a_file_is_no_lake(run: Run, lake: Path, words: list[str]) -> None:
    more = [lake / "lake.json", "x"] if words == ["put"] else []
    if words[0] == "ls":
        failed(run(*words, lake / "lake.json"), 2, "federation")
    else:
        failed(run(*words, lake / "lake.json", *more), 3, "expected a directory, found a file")


def test_a_taken_name_is_a_conflict(run: Run, lake: Path) -> None:
    failed(run("create", lake), 4, "conflict", str(lake), "a lake already")
    assert run("tag", lake, "v1").code == 0
    failed(run("tag", lake, "v1"), 4, "tag 'v1'", "--move")
    failed(run("mkdir", lake, "a"), 4, "'a'", "found dir")
    failed(run("mkdir", lake, "a/b.txt"), 4, "'a/b.txt'", "found file")


def test_damaged_bytes_are_corrupt(run: Run, lake: Path) -> None:
    damage(lake, FILES["a/b.txt"])
    failed(run("cat", lake, "a/b.txt"), 5, "corrupt", "a/b.txt", "checksum", "fsck --deep")


def test_a_damaged_superblock_is_corrupt(run: Run, lake: Path) -> None:
    (lake / "lake.json").write_bytes(b"{}")
    failed(run("ls", lake), 5, "corrupt", "lake.json")


def test_a_volume_that_refuses_is_a_volume_failure(run: Run, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    failed(run("ls", loop), 6, "volume failed", os.strerror(errno.ELOOP).lower(), "mounted")


def test_a_pack_cut_short_is_a_volume_failure(run: Run, lake: Path) -> None:
    for pack in lake.glob("packs/*/*.pack"):
        os.truncate(pack, 100)
    done = run("ls", "-R", lake)
    assert done.code in (5, 6)
    failed(done, done.code, "lakefeed")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_volume_is_a_volume_failure(run: Run, lake: Path) -> None:
    (lake / "lake.json").chmod(0)
    failed(run("ls", lake), 6, "permission denied")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ""),
        (("nonsense",), "nonsense"),
        (("ls",), "LAKE"),
        (("ls", "LAKE", "--nonsense"), "--nonsense"),
        (("find", "LAKE", "--min-size", "big"), "64MiB"),
        (("find", "LAKE", "--newer", "soon"), "2026-01-31T12:00"),
        (("find", "LAKE", "--glob", "*", "--name", "*"), "exclude"),
        (("find", "LAKE", "--long", "--count"), "exclude"),
        (("find", "LAKE", "--name", "a/b"), "--glob"),
        (("find", "LAKE", "--type", "socket"), "socket"),
        (("tag", "LAKE", "--move"), "NAME"),
        (("tag", "LAKE", "v1", "--delete", "--at", "1"), "--delete"),
        (("put", "LAKE", "-", "x", "--attr", "novalue"), "NAME=VALUE"),
        (("put", "LAKE", "-", "x", "--mtime", "soon"), "'soon'"),
        (("gc", "LAKE", "--keep", "9" * 25 + "w"), "no duration"),
        (("--timeout", "99999999w", "ls", "LAKE"), "no duration"),
        (("find", "LAKE", "--min-size", "9" * 5000), "no size"),
        (("find", "LAKE", "--newer", "9" * 400 + "w"), "no time"),
        (("completion", "csh"), "csh"),
    ],
)
def test_bad_usage_is_two(run: Run, lake: Path, words: tuple[str, ...], said: str) -> None:
    done = run(*(lake if word == "LAKE" else word for word in words))
    assert done.code == 2
    assert said in done.err + done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("put", "LAKE", "-", "../x"), "'../x'"),
        (("put", "LAKE", "-", "/x"), "relative"),
        (("put", "LAKE", "-", "new/"), "stdin has no name"),
        (("get", "LAKE", "a", "-"), "lakefeed export"),
        (("get", "-r", "LAKE", "a", "-"), "lakefeed export"),
        (("put", "LAKE", "-", "a/b.txt/x"), "a/b.txt"),
        (("cat", "LAKE", "a"), "get -r"),
        (("rm", "LAKE", "a"), "-r"),
        (("cp", "LAKE", "a", "z"), "-r"),
        (("cp", "-r", "LAKE", "a", "a/c/z"), "path 'a', expected a target outside itself"),
        (("mv", "LAKE", "a", "a/c/z"), "outside itself"),
        (("ls", "LAKE", "a/b.txt/"), "directory"),
        (("tag", "LAKE", "x/y"), "'x/y'"),
    ],
)
def test_a_request_that_cannot_be_is_usage(
    run: Run, lake: Path, words: tuple[str, ...], said: str
) -> None:
    failed(run(*(lake if word == "LAKE" else word for word in words)), 2, "invalid", said)


def test_a_directory_is_for_import(run: Run, lake: Path, tmp_path: Path) -> None:
    failed(run("put", lake, tmp_path, "x"), 2, str(tmp_path), '"lakefeed import"')


@pytest.mark.parametrize("kind", [NotFound, SnapshotExpired, Conflict, Corrupt, VolumeFailed])
def test_every_kind_says_what_to_do_next(kind: type[NotFound]) -> None:
    assert "; " in describe(kind("thing"))
    assert describe(kind("thing", hint="do this")).endswith("thing; do this")


def test_a_message_stays_one_line() -> None:
    assert describe(Invalid("path 'a\nb'")) == "invalid: path 'a b'; see --help"


@pytest.mark.slow
def test_a_bug_is_short_and_says_how_to_see_more(process: Run, lake: Path) -> None:
    # A program that is not whole: the module that opens lakes is not what it should be.
    broken = lake.parent / "broken"
    broken.mkdir()
    (broken / "crc32c.py").write_text("crc32c = None\n")
    done = process("ls", lake, PYTHONPATH=str(broken))
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 2
    assert "TypeError" in done.err
    assert "This is a bug" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in process("--debug", "ls", lake, PYTHONPATH=str(broken)).err
    shown = process("ls", lake, PYTHONPATH=str(broken), LAKEFEED_DEBUG="1")
    assert "Traceback" in shown.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (("bench", "train", "LAKE"), "plotext", "bench"),
        (("bench", "train", "LAKE", "--device", "cpu"), "pynvml", "bench"),
        (("bench", "volume", "LAKE", "--report", "x"), "matplotlib", "bench"),
        (("compactd", "LAKE"), "prometheus_client", "service"),
        (("mount", "LAKE", "x"), "pyfuse3", "fuse"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    process: Run, lake: Path, words: tuple[str, ...], module: str, extra: str
) -> None:
    missing = lake.parent / "missing"
    missing.mkdir()
    (missing / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})\n")
    places = {"LAKE": lake, "x": lake.parent / "x"}
    done = process(*(places.get(word, word) for word in words), PYTHONPATH=str(missing))
    failed(done, 2, module, f'pip install "lakefeed[{extra}]"')


@pytest.mark.slow
def test_a_part_that_a_library_has_not_is_a_bug(process: Run, lake: Path) -> None:
    broken = lake.parent / "broken"
    broken.mkdir()
    (broken / "plotext.py").write_text("import plotext.no_such_part\n")
    done = process("bench", "train", lake, PYTHONPATH=str(broken))
    assert "This is a bug" in done.err


@pytest.mark.slow
def test_debug_shows_where_an_error_came_from(process: Run, tmp_path: Path) -> None:
    done = process("--debug", "ls", tmp_path)
    assert done.code == 3
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error: not found: ")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--timeout", "100ms"), ()])
def test_a_volume_that_does_not_answer_is_a_volume_failure(
    process: Run, lake: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    environment = {} if words else {"LAKEFEED_TIMEOUT": "100ms"}
    silent = silenced(tmp_path / "silent", lake / "lake.json")
    done = process(*words, "ls", lake, **environment, **silent)
    failed(done, 6, str(lake / "lake.json"), "no answer", "server")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ls", "du"])
def test_a_lake_whose_directory_does_not_answer_is_a_volume_failure(
    process: Run, lake: Path, tmp_path: Path, command: str
) -> None:
    words = ("--timeout", "100ms", command, lake)
    done = process(*words, **silenced(tmp_path / "silent", lake))
    failed(done, 6, str(lake), "no answer", "server")
