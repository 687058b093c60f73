"""What goes in comes out: every name, byte, mode and nanosecond, and nothing is done twice."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest

from lakefeed import Lake
from lakefeed.errors import Conflict, Invalid, NotFound
from lakefeed.format.rows import Codec, Kind
from lakefeed.lake.check import check
from lakefeed.transfer import directory, importing
from lakefeed.transfer.directory import DirectoryTarget
from lakefeed.transfer.exporting import ExportOptions, export
from lakefeed.transfer.importing import ImportOptions, Progress, import_tree
from tests.lake.tools import unmerged
from tests.support.descriptors import open_below
from tests.transfer.trees import facts

OPTIONS = [
    ImportOptions(),
    ImportOptions(prefix="p/q"),
    ImportOptions(codec=Codec.ZSTD),
    ImportOptions(pack_bytes=100_000),
    ImportOptions(pack_rows=10),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_export_equals_the_tree_imported(
    lake: Lake, tree: Path, tmp_path: Path, options: ImportOptions
) -> None:
    report = import_tree(lake, tree, options)
    assert (report.errors, report.skipped) == (0, 0)
    done = export(lake.snapshot(), DirectoryTarget(tmp_path / "out"), ExportOptions(options.prefix))
    assert done.errors == 0
    assert done.files == report.files
    assert facts(tmp_path / "out") == facts(tree)
    assert report.bytes == sum(size for mode, size, *_ in facts(tree).values() if mode[0] != "d")
    assert not check(lake, deep=True).findings


def test_running_again_does_nothing(lake: Lake, tree: Path, tmp_path: Path) -> None:
    first = import_tree(lake, tree)
    again = import_tree(lake, tree)
    assert (again.files, again.directories, again.packs) == (0, 0, 0)
    assert again.skipped == first.files + first.directories
    assert again.snapshot == first.snapshot
    export(lake.snapshot(), DirectoryTarget(tmp_path / "out"))
    once_more = export(lake.snapshot(), DirectoryTarget(tmp_path / "out"))
    assert (once_more.files, once_more.skipped) == (0, first.files)
    assert facts(tmp_path / "out") == facts(tree)


def test_only_what_changed_is_imported_again(lake: Lake, tree: Path) -> None:
    import_tree(lake, tree)
    (tree / "a/b.txt").write_bytes(b"other bytes")
    (tree / "a/new").write_bytes(b"new")
    (tree / "big").chmod(0o640)
    (tree / "dangling").unlink()
    (tree / "dangling").write_bytes(b"a file now")
    report = import_tree(lake, tree)
    assert report.files == 4
    assert report.directories == 1  # "a" has another time; the root is no row
    snapshot = lake.snapshot()
    assert snapshot.get("a/b.txt") == b"other bytes"
    assert snapshot.stat("big").mode == 0o640
    assert snapshot.stat("dangling").kind is Kind.FILE


def test_what_left_the_source_stays_in_the_lake(lake: Lake, tree: Path) -> None:
    import_tree(lake, tree)
    (tree / "a.txt").unlink()
    import_tree(lake, tree)
    assert lake.snapshot().get("a.txt") == b"hello\n"


def test_what_is_imported_again_keeps_its_attributes(lake: Lake, tree: Path) -> None:
    import_tree(lake, tree)
    with lake.writer() as writer:
        for path in ("a/b.txt", "a.txt", "big", "dangling"):
            writer.put(path, b"labelled", attrs={"label": path})
    (tree / "dangling").unlink()
    (tree / "dangling").mkdir()
    assert import_tree(lake, tree).files == 3
    snapshot = lake.snapshot()
    for path in ("a/b.txt", "a.txt", "big"):
        assert snapshot.get(path) == (tree / path).read_bytes()
        assert snapshot.stat(path).attrs == {"label": path}
    assert snapshot.stat("dangling").attrs is None  # another thing of that name


def test_the_directory_that_an_import_goes_to_keeps_its_attributes(lake: Lake, tree: Path) -> None:
    with lake.writer() as writer:
        writer.mkdir("p", attrs={"label": "mine"})
    assert import_tree(lake, tree, ImportOptions(prefix="p")).errors == 0
    assert lake.snapshot().stat("p").attrs == {"label": "mine"}
    assert lake.snapshot().stat("p").mtime_ns == tree.stat().st_mtime_ns


@pytest.mark.parametrize("error", [None, Conflict("commit")])
def test_an_import_merges_its_packs_unless_somebody_else_does(
    lake: Lake, tree: Path, monkeypatch: pytest.MonkeyPatch, error: Conflict | None
) -> None:
    monkeypatch.setattr(importing, "_MERGE_AFTER", 1)
    if error is not None:
        monkeypatch.setattr(lake, "merge_index", Mock(side_effect=error))
    report = import_tree(lake, tree)
    assert unmerged(lake.snapshot()) == (0 if error is None else report.packs)
    assert lake.snapshot().get("a.txt") == b"hello\n"


def test_a_dry_run_counts_and_changes_nothing(lake: Lake, tree: Path) -> None:
    plan = import_tree(lake, tree, ImportOptions(dry_run=True))
    assert lake.snapshot().number == 0
    done = import_tree(lake, tree)
    assert (plan.files, plan.directories, plan.bytes) == (done.files, done.directories, done.bytes)


def test_excluded_names_stay_out(lake: Lake, tree: Path) -> None:
    report = import_tree(lake, tree, ImportOptions(exclude=("*.png", "a/", "/nothing/in", "b?g")))
    paths = {path for table in lake.snapshot().scan() for path in table["path"].to_pylist()}
    expected = {
        path
        for path in facts(tree)
        if not (path.endswith(".png") or path == "a" or path.startswith(("a/", "nothing/in")))
    }
    assert paths == expected - {"big"}
    assert report.excluded == 303


@pytest.mark.parametrize("pattern", ["!a", "", "/"])
def test_a_pattern_that_means_nothing_is_refused(lake: Lake, tree: Path, pattern: str) -> None:
    with pytest.raises(Invalid):
        import_tree(lake, tree, ImportOptions(exclude=(pattern,)))


def test_links_are_followed_when_asked_and_loops_are_reported(lake: Lake, tree: Path) -> None:
    (tree / "elsewhere").symlink_to("many")
    report = import_tree(lake, tree, ImportOptions(follow_symlinks=True))
    snapshot = lake.snapshot()
    assert snapshot.stat("a/link").kind is Kind.FILE
    assert snapshot.get("a/link") == (tree / "a/b.txt").read_bytes()
    assert snapshot.get("elsewhere/0/0000.png") == (tree / "many/0/0000.png").read_bytes()
    failed = {problem.path for problem in report.problems}
    assert {"dangling", "loop"} <= failed
    assert any(path.startswith("up") for path in failed)


def test_progress_ends_with_the_sum(lake: Lake, tree: Path) -> None:
    seen: list[Progress] = []
    report = import_tree(lake, tree, progress=seen.append)
    assert seen[-1] == Progress(report.files, report.bytes, 0, 0)
    assert [p.files for p in seen] == sorted(p.files for p in seen)


def test_a_prefix_below_a_file_is_refused(lake: Lake, tree: Path) -> None:
    with lake.writer() as writer:
        writer.put("x", b"")
    for prefix in ("x", "x/y"):
        with pytest.raises(Invalid, match="'x'"):
            import_tree(lake, tree, ImportOptions(prefix=prefix))


def test_a_file_never_takes_the_place_of_a_directory_of_the_lake(lake: Lake, tree: Path) -> None:
    with lake.writer() as writer:
        writer.put("a.txt/below", b"keep")
    report = import_tree(lake, tree)
    assert [problem.path for problem in report.problems] == ["a.txt"]
    assert lake.snapshot().get("a.txt/below") == b"keep"
    assert not check(lake, deep=True).findings


def test_an_export_puts_right_what_differs_and_leaves_the_rest(lake: Lake, tmp_path: Path) -> None:
    out, names = tmp_path / "out", ["bytes", "kind", "mode", "same", "time"]
    with lake.writer() as writer:
        for name in names:
            writer.put(name, b"as it was")
    export(lake.snapshot(), DirectoryTarget(out))
    before = facts(out)
    stamp_ns = (out / "kind").stat().st_mtime_ns
    (out / "bytes").write_bytes(b"longer than it was")
    (out / "mode").chmod(0o600)
    os.utime(out / "time", ns=(0, 0))
    (out / "kind").unlink()
    (out / "kind").symlink_to("same/size")
    os.utime(out / "kind", ns=(stamp_ns, stamp_ns), follow_symlinks=False)
    report = export(lake.snapshot(), DirectoryTarget(out))
    assert (report.files, report.skipped, report.errors) == (4, 1, 0)
    assert facts(out) == before


def test_an_export_tells_a_file_from_a_link_of_its_size_and_time(
    lake: Lake, tmp_path: Path
) -> None:
    out, text = tmp_path / "out", "12345"
    with lake.writer() as writer:
        writer.put("file", text.encode(), mode=0o777)  # which is that of a link, too
        writer.symlink("link", text)
    export(lake.snapshot(), DirectoryTarget(out))
    before = facts(out)
    stamps = {name: (out / name).lstat().st_mtime_ns for name in ("file", "link")}
    for name in stamps:
        (out / name).unlink()
    (out / "file").symlink_to(text)
    (out / "link").write_text(text)
    for name, time_ns in stamps.items():
        os.utime(out / name, ns=(time_ns, time_ns), follow_symlinks=False)
    report = export(lake.snapshot(), DirectoryTarget(out))
    assert (report.files, report.skipped) == (2, 0)
    assert facts(out) == before


@pytest.mark.parametrize("fails", [False, True])
def test_an_export_leaves_no_directory_open(lake: Lake, tmp_path: Path, fails: bool) -> None:
    with lake.writer() as writer:
        writer.put("a/b/c", b"1")

    def advance(progress: Progress) -> None:
        assert open_below(tmp_path / "out")
        if fails:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        export(lake.snapshot(), DirectoryTarget(tmp_path / "out"), progress=advance)
    assert open_below(tmp_path / "out") == []


def test_a_source_that_is_not_there_is_not_found(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="source"):
        import_tree(lake, tmp_path / "nowhere")


def test_two_imports_at_once_both_arrive(lake: Lake, tree: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(import_tree, lake, tree, ImportOptions(prefix=p, pack_rows=40))
            for p in "xy"
        ]
        reports = [job.result() for job in jobs]
    assert [r.errors for r in reports] == [0, 0]
    found = [t["path"].to_pylist() for p in "xy" for t in lake.snapshot().scan(p)]
    assert sum(map(len, found)) == 2 * (len(facts(tree)) + 1)
    assert not check(lake).findings


def test_an_export_can_be_of_one_glob_or_one_file(lake: Lake, tree: Path, tmp_path: Path) -> None:
    import_tree(lake, tree)
    options = ExportOptions("many", "**/*1.png")
    export(lake.snapshot(), DirectoryTarget(tmp_path / "out"), options)
    names = [p for p in facts(tmp_path / "out") if p.endswith(".png")]
    assert len(names) == 30
    export(lake.snapshot(), DirectoryTarget(tmp_path / "one"), ExportOptions("many/0/0000.png"))
    assert os.listdir(tmp_path / "one") == ["0000.png"]


def test_the_prefix_of_an_export_is_no_glob(lake: Lake, tmp_path: Path) -> None:
    with lake.writer() as writer:
        writer.put("data[1]/a.jpg", b"1")
        writer.put("data1/b.jpg", b"2")
    export(lake.snapshot(), DirectoryTarget(tmp_path / "out"), ExportOptions("data[1]", "*.jpg"))
    assert os.listdir(tmp_path / "out") == ["a.jpg"]


def test_an_export_lists_a_big_directory_once(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lake.writer() as writer:
        for number in range(60):
            writer.put(f"d/{number:02}", b"%d" % number)
    monkeypatch.setattr(directory, "_TOGETHER_FILES", 10)
    synced, listed = Mock(wraps=directory._sync_all), Mock(wraps=os.listdir)
    monkeypatch.setattr(directory, "_sync_all", synced)
    monkeypatch.setattr(os, "listdir", listed)
    export(lake.snapshot(), DirectoryTarget(tmp_path / "out"))
    assert (synced.call_count > 3, listed.call_count) == (True, 1)


@pytest.mark.parametrize("follow", [False, True])
def test_a_lake_is_never_imported_into_itself(
    lake: Lake, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, follow: bool
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/lake").write_bytes(b"a file of that name")
    if follow:
        (tmp_path / "sub/way").symlink_to(lake.name)
    options = ImportOptions(follow_symlinks=follow)
    for _ in range(2):
        report = import_tree(lake, tmp_path, options)
        assert (report.errors, report.excluded) == (0, 2 if follow else 1)
        paths = [path for table in lake.snapshot().scan() for path in table["path"].to_pylist()]
        assert paths == ["a", "sub", "sub/lake"]
    way = tmp_path_factory.mktemp("links") / "way"
    way.symlink_to(tmp_path)
    assert import_tree(lake, way, options).files == 0
    for source in (lake.name, f"{lake.name}/packs"):
        with pytest.raises(Invalid, match="the lake itself"):
            import_tree(lake, source)
