"""Settings come from flags, environment and file; what is wrong is one clear line."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from lakefeed.cli.service_settings import ServiceSettings, load
from lakefeed.errors import Invalid, NotFound
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.garbage import Retention
from lakefeed.service.options import InboxOptions, LakeOptions, ServiceOptions
from lakefeed.service.window import Window


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ServiceSettings.model_fields:
        monkeypatch.delenv(f"LAKEFEED_{name.upper()}", raising=False)


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return str(path)


def test_flags_come_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toml(tmp_path, 'lakes = ["/a"]\npack-age = "1m"\ninterval = "2m"\nkeep = "3d"\n')
    monkeypatch.setenv("LAKEFEED_INTERVAL", "3m")
    monkeypatch.setenv("LAKEFEED_KEEP", "4d")
    found = load({"keep": "5d", "rate": None}, config)
    assert (found.lakes, found.pack_age, found.interval) == (("/a",), 60, 180)
    assert found.keep == 5 * 24 * 3600


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "LAKES": "/a:/b", "INBOX_QUIET": "10s", "PACK_FILES": "7", "PACK_BYTES": "1MiB",
        "KEEP_INBOX": "true", "RATE": "200MB/s", "WINDOW": "22:00-06:00", "LISTEN": "0.0.0.0:80",
        "LOG_FORMAT": "json", "LEASE": "15s", "NAME": "r1",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LAKEFEED_{name}", text)
    found = load({}, None)
    assert found.lakes == ("/a", "/b")
    assert (found.inbox_quiet, found.pack_files, found.pack_bytes) == (10, 7, 1 << 20)
    assert (found.keep_inbox, found.rate, found.lease) == (True, 200_000_000, 15)
    assert found.window == Window(22 * 60, 6 * 60)
    assert (found.listen, found.log_format, found.name) == (("0.0.0.0", 80), "json", "r1")


def test_every_setting_reaches_what_it_is_for() -> None:
    flags = {
        "lakes": ["/a"], "inbox": ["/in=cams"], "inbox_quiet": "1s", "pack_files": 2,
        "pack_bytes": "3", "pack_age": "4s", "keep_inbox": True, "interval": "5s",
        "target_size": "6", "live_ratio": 0.7, "packs_min": 8, "rate": "9", "window": "1:00-2:00",
        "gc_interval": "10s", "keep": "11s", "keep_snapshots": 12, "grace": "13s",
        "scrub_interval": "14s", "scrub_duration": "15s", "listen": "h:16", "lease": "17s",
        "name": "me",
    }  # fmt: skip
    assert flags.keys() == ServiceSettings.model_fields.keys() - {"inboxes", "log_format"}
    assert load(flags, None).options(18) == ServiceOptions(
        lakes=(LakeOptions("/a", (InboxOptions(
            "/in", prefix="cams", quiet_seconds=1, pack_files=2, pack_bytes=3, pack_age_seconds=4,
            keep=True,
        ),)),),
        name="me", interval_seconds=5, rate_bytes=9, window=Window(60, 120),
        compaction=CompactionOptions(target_bytes=6, live_ratio=0.7, packs_min=8),
        gc_interval_seconds=10,
        retention=Retention(keep_seconds=11, keep_snapshots=12, grace_seconds=13),
        scrub_interval_seconds=14, scrub_seconds=15, listen=("h", 16), lease_seconds=17,
        timeout_seconds=18,
    )  # fmt: skip


def test_inboxes_of_several_lakes_are_a_table(tmp_path: Path) -> None:
    config = toml(tmp_path, 'lakes = ["/a", "/b"]\n[inboxes]\n"/b" = ["/in=cams/x", "/out"]\n')
    first, second = load({}, config).options(60).lakes
    assert first.inboxes == ()
    assert [(one.directory, one.prefix) for one in second.inboxes] == [
        ("/in", "cams/x"), ("/out", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "subject", "expected"),
    [
        ({"pack_bytes": "much"}, "setting pack-bytes", "a size such as"),
        ({"interval": "soon"}, "setting interval", "a duration such as"),
        ({"interval": "0s"}, "setting interval", "greater than 0"),
        ({"rate": "fast"}, "setting rate", "a rate such as"),
        ({"rate": "0"}, "setting rate", "greater than 0"),
        ({"window": "night"}, "setting window", "22:00-06:00"),
        ({"listen": "nowhere"}, "setting listen", "an address such as"),
        ({"log_format": "xml"}, "setting log-format", "'text' or 'json'"),
        ({"pack_files": 0}, "setting pack-files", "greater than or equal to 1"),
        ({"pack_bytes": "0"}, "setting pack-bytes", "greater than or equal to 1"),
        ({"target_size": "0"}, "setting target-size", "greater than or equal to 1"),
        ({"lease": "0s"}, "setting lease", "greater than or equal to 1"),
        ({"lease": "500ms"}, "setting lease", "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(
    flags: dict[str, object], subject: str, expected: str
) -> None:
    with pytest.raises(Invalid) as told:
        load(flags, None)
    assert told.value.subject == subject
    assert expected in str(told.value.expected)
    assert "Input" not in str(told.value)


@pytest.mark.parametrize(
    ("line", "subject"),
    [
        ("inbox-quiet = inf", "setting inbox-quiet"),
        ("gc-interval = -5", "setting gc-interval"),
        ("keep = nan", "setting keep"),
        ("keep = 1e300", "setting keep"),
        ("target-size = 9223372036854775808", "setting target-size"),
        ('rate = "9223372036854775808B/s"', "setting rate"),
        ("rate = -1", "setting rate"),
        ('listen = ["127.0.0.1", 65536]', "setting listen"),
    ],
)
def test_a_number_in_the_file_is_checked_as_a_flag_is(
    tmp_path: Path, line: str, subject: str
) -> None:
    with pytest.raises(Invalid) as told:
        load({}, toml(tmp_path, line))
    assert told.value.subject == subject


def test_a_table_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEFEED_INBOXES", '{"/a": ["/in=cams"]}')
    (lake,) = load({"lakes": ["/a"]}, None).options(60).lakes
    assert [inbox.prefix for inbox in lake.inboxes] == ["cams"]
    monkeypatch.setenv("LAKEFEED_INBOXES", "/drop")
    with pytest.raises(Invalid) as told:
        load({"lakes": ["/a"]}, None)
    assert (told.value.subject, told.value.found) == ("setting inboxes", "'/drop'")


def test_an_unknown_setting_in_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as told:
        load({}, toml(tmp_path, 'pack-aeg = "1m"\n'))
    assert told.value.subject == "setting pack-aeg"
    with pytest.raises(Invalid, match="TOML"):
        load({}, toml(tmp_path, "pack-age = \n"))
    with pytest.raises(NotFound):
        load({}, str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"lakes": ["/a", "/b"], "inbox": ["/in"]},
        {"lakes": ["/a"], "inbox": ["/a"]},
        {"lakes": ["/a"], "inbox": ["/a/in"]},
        {"lakes": ["/a/lake"], "inbox": ["/a"]},
        {"lakes": ["/a", "/b"], "inboxes": {"/a": ["/b/in"]}},
        {"lakes": ["/a", "/b/lake"], "inboxes": {"/a": ["/b"]}},
        {"lakes": ["/a", "/b"], "inboxes": {"/a": ["/in"], "/b": ["/in=cams"]}},
        {"lakes": ["/a"], "inbox": ["/in", "/in/cams=cams"]},
        {"lakes": ["/a"], "inbox": ["/in=../x"]},
        {"lakes": ["/a"], "inbox": [""]},
        {"lakes": ["/a"], "inbox": ["=cams"]},
        {"lakes": ["/a"], "inboxes": {"/c": ["/in"]}},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(flags: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        load(flags, None).options(60)


def test_neighbours_whose_names_begin_alike_do_not_overlap() -> None:
    (lake,) = (
        load({"lakes": ["/a/lake"], "inbox": ["/a/lake-in", "/a/lake-in2"]}, None).options(60).lakes
    )
    assert [inbox.directory for inbox in lake.inboxes] == ["/a/lake-in", "/a/lake-in2"]


def test_an_inbox_that_is_named_twice_is_one(tmp_path: Path) -> None:
    config = toml(tmp_path, 'inbox = ["/in=cams"]\n[inboxes]\n"/a" = ["/in=cams", "/out"]\n')
    (lake,) = load({"lakes": ["/a"]}, config).options(60).lakes
    assert [inbox.directory for inbox in lake.inboxes] == ["/in", "/out"]


def test_a_link_does_not_hide_that_a_lake_lies_in_an_inbox(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    flags = {"lakes": [f"{tmp_path}/real/lake"], "inbox": [f"{tmp_path}/link"]}
    with pytest.raises(Invalid, match="outside of lakes"):
        load(flags, None).options(60)


@pytest.mark.parametrize("spelled", ["{}/real/lake/", "{}//real/./lake", "real/lake"])
def test_a_lake_that_is_named_twice_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    monkeypatch.chdir(tmp_path)
    lake, other = f"{tmp_path}/real/lake", spelled.format(tmp_path)
    (found,) = load({"lakes": [lake, other]}, None).options(60).lakes
    assert found.path == lake
    inboxes = {"inboxes": {lake: ["/in"], other: ["/out"]}}
    (found,) = load({"lakes": [other, lake], **inboxes}, None).options(60).lakes
    assert found.path == other
    assert [inbox.directory for inbox in found.inboxes] == ["/in", "/out"]


def test_a_lake_that_a_link_names_too_has_all_its_inboxes(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real, link = f"{tmp_path}/real/lake", f"{tmp_path}/link/lake"
    flags = {"lakes": [real, link], "inboxes": {link: ["/in"]}}
    (found,) = load(flags, None).options(60).lakes
    assert (found.path, [one.directory for one in found.inboxes]) == (real, ["/in"])
    (found,) = load({"lakes": [real, link], "inbox": ["/in"]}, None).options(60).lakes
    assert [one.directory for one in found.inboxes] == ["/in"]


def test_lakes_with_whole_paths_need_no_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (found,) = load({"lakes": ["/a", "/a/"]}, None).options(60).lakes
    assert found.path == "/a"


def test_a_window_may_go_over_midnight() -> None:
    night = Window.parse("22:00-06:00")
    day = Window.parse("9:30-17:00")
    holds = {hour: night.holds(datetime(2026, 1, 1, hour)) for hour in (21, 22, 23, 0, 5, 6)}
    assert holds == {21: False, 22: True, 23: True, 0: True, 5: True, 6: False}
    assert day.holds(datetime(2026, 1, 1, 9, 30))
    assert not day.holds(datetime(2026, 1, 1, 9, 29))
    for text in ("25:00-01:00", "1:00-1:00", "9-17", ""):
        with pytest.raises(Invalid):
            Window.parse(text)


def test_a_window_knows_how_long_it_is_open() -> None:
    night = Window.parse("22:00-06:00")
    assert night.left_seconds(datetime(2026, 1, 1, 22, 0)) == 8 * 3600
    assert night.left_seconds(datetime(2026, 1, 1, 5, 59, 30)) == 30
    assert night.left_seconds(datetime(2026, 1, 1, 6, 0)) == 0


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("window = 22", "setting window", "a time of day like 22:00-06:00"),
        ("window = 0", "setting window", "a time of day like 22:00-06:00"),
        ("window = false", "setting window", "a time of day like 22:00-06:00"),
        ("window = 22:00:00", "setting window", "a time of day like 22:00-06:00"),
        ("listen = 9464", "setting listen", "an address such as 127.0.0.1:9464"),
        ("pack-age = 'x'", "setting pack-age", "a duration such as"),
    ],
)
def test_what_is_wrong_in_a_file_says_what_is_meant_and_where_it_stands(
    tmp_path: Path, text: str, subject: str, expected: str
) -> None:
    config = toml(tmp_path, text)
    with pytest.raises(Invalid) as raised:
        load({}, config)
    assert raised.value.subject == subject
    assert expected in str(raised.value.expected)
    assert f"it is set by {config}" in str(raised.value.hint)


def test_what_is_wrong_is_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toml(tmp_path, "pack-age = '1m'")
    monkeypatch.setenv("LAKEFEED_PACK_AGE", "later")
    with pytest.raises(Invalid, match="it is set by LAKEFEED_PACK_AGE"):
        load({}, config)
    with pytest.raises(Invalid, match="it is set by --pack-age"):
        load({"pack_age": "soon"}, config)
