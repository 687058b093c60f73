"""Sizes, durations and times read and written as people do."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timezone

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.cli import units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("10B", 10),
        ("4k", 4096),
        ("4KiB", 4096),
        ("4KB", 4000),
        ("4kB", 4000),
        ("256MiB", 256 << 20),
        ("1.5 GiB", 3 << 29),
        ("2t", 2 << 40),
        ("1PB", 10**15),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1", "1x", "1iB", "1 2", "MiB", "1e3", "1MiBs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    assert units.parse_size(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("1h30m", 5400), ("7d", 604800), ("2w", 1209600), ("0.5s", 0.5),
     ("250ms", 0.25)],
)  # fmt: skip
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "d", "5y", "1h x", "-1h", "5 days", "5219w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert units.parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T00:00:00+00:00", 1769817600),
        ("2026-01-31T01:00:00+01:00", 1769817600),
        ("@1769817600", 1769817600),
        ("2026-01-31T00:00:00.500000+00:00", 1769817600.5),
    ],
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert units.parse_time(text) == int(seconds * 1e9)


def test_a_time_without_zone_is_local() -> None:
    local = datetime(2026, 1, 31, 12).astimezone(timezone.utc)
    assert units.parse_time("2026-01-31T12:00") == int(local.timestamp()) * 10**9


def test_a_time_may_count_back_from_now() -> None:
    before = time.time_ns()
    found = units.parse_time("2h ago")
    assert found is not None
    assert before <= found + 7200 * 10**9 <= time.time_ns()
    assert before <= units.time_option("7d") + 604800 * 10**9 <= time.time_ns()


@pytest.mark.parametrize(
    "text", ["", "soon", "v1", "7d", "2026-13-01", "@x", "@²", "x ago", "12", "0001-01-01"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    assert units.parse_time(text) is None


@pytest.mark.parametrize(
    "text", ["2262-04-13", "9999-01-01", "1600-01-01", "@9999999999", "999999w"]
)
def test_a_time_that_no_file_can_have_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no time"):
        units.time_option(text)
    with pytest.raises(typer.BadParameter, match="no size"):
        units.size_option("99999999999T")
    with pytest.raises(typer.BadParameter, match="no rate"):
        units.rate_option("99999999999T/s")


def test_the_longest_duration_is_one_that_a_thread_can_wait() -> None:
    longest = units.parse_duration("36525d")
    assert longest is not None
    assert longest < threading.TIMEOUT_MAX
    assert units.parse_time("36525d ago") is not None


def test_more_digits_than_anybody_means_are_refused() -> None:
    for digits in ("9" * 31, "9" * 400, "9" * 5000):
        for text in (digits, f"{digits}.5k", f"1.{digits}k"):
            assert units.parse_size(text) is None
        for text in (f"{digits}w", f"1.{digits}s", f"1h{digits}ms"):
            assert units.parse_duration(text) is None
            assert units.parse_time(f"{text} ago") is None
        assert units.parse_time(f"@{digits}") is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"),
     ((1 << 20) - 1, "1.0 MiB"), (3 << 39, "1.5 TiB"), (1 << 60, "1024.0 PiB")],
)  # fmt: skip
def test_a_size_is_written(size: int, text: str) -> None:
    assert units.human_size(size) == text


@given(st.integers(0, 1 << 62))
def test_a_written_size_reads_back_close(size: int) -> None:
    found = units.parse_size(units.human_size(size))
    assert found is not None
    assert abs(found - size) <= max(0.06 * size, 1)


@given(st.integers(0, 4 * 10**18))
def test_a_time_for_json_reads_back(time_ns: int) -> None:
    assert units.parse_time(units.iso_time(time_ns)) == time_ns // 1000 * 1000


def test_a_mode_is_written_as_ls_does() -> None:
    assert units.human_mode("file", 0o644) == "-rw-r--r--"
    assert units.human_mode("dir", 0o755) == "drwxr-xr-x"
    assert units.human_mode("symlink", 0o777) == "lrwxrwxrwx"
    assert units.human_mode("file", 0) == "----------"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.31, "0.3 s"), (12, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_a_duration_is_written(seconds: float, text: str) -> None:
    assert units.human_seconds(seconds) == text


@pytest.mark.parametrize("seconds", [0.0, 5.0, 0.1 + 0.2, 1e-05, 1e-9, 3e9])
def test_a_duration_is_read_as_it_was_written(seconds: float) -> None:
    assert units.parse_duration(units.exact_seconds(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:80", ("::1", 80)),
        ("host:0", ("host", 0)),
        (":65535", ("0.0.0.0", 65535)),
        ("9464", None),
        ("host:", None),
        ("host:65536", None),
        ("host:-1", None),
        (":" + "9" * 5000, None),
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int] | None) -> None:
    assert units.parse_address(text) == address
