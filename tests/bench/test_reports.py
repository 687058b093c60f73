"""Reports compare, refuse what is none, and show what they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lakefeed.bench import page, plots, reports, tables, verdict
from lakefeed.bench.figures import WAIT_EDGES_SECONDS
from lakefeed.cli import benching
from lakefeed.errors import Invalid, NotFound

ENVIRONMENT = {
    "date": "2026-01-01T00:00:00+00:00", "host": "h<1>", "processor": "p", "processors": 2,
    "memory_bytes": 2**34, "kernel": "6", "python": "3", "lakefeed": "0", "versions": {},
}  # fmt: skip


def run(source: str, rate: float) -> dict[str, Any]:
    return {
        "source": source, "accelerators": 1, "utilisation": 0.5, "samples_per_second": rate,
        "bytes_per_second": 1e6, "stall_share": 0.5, "read_amplification": 1.0, "wall_seconds": 9,
        "cpu_per_thousand_samples": 1.0, "read_bytes": 10, "peak_rss_bytes": 10, "passed": True,
        "wait_seconds": {"p50": 0.1, "p99": 0.2}, "wait_edges_seconds": list(WAIT_EDGES_SECONDS),
        "wait_histogram": [1] * 13,
        "timeline": {"seconds": [1, 2], "utilisation": [0, 1], "bytes_per_second": [1, 2]},
    }  # fmt: skip


def report(rate: float = 100, **more: Any) -> dict[str, Any]:
    return {
        "schema": reports.SCHEMA, "kind": "train", "title": "a <title>", "emulated": True,
        "workload": {"name": "w", "accelerator": "x", "utilisation_min": 0.9}, "next": "n",
        "runs": [run("lake", rate), run("plain", 50)], "lines": ["fine & good"],
        "verdict": "fine & good", "notes": ["a note"], "environment": ENVIRONMENT, **more,
    }  # fmt: skip


RATES = {"ceiling_per_second": 4.0, "cached_per_second": 2.7, "own_per_second": 2.0}


def test_a_report_comes_back_as_it_was_written(tmp_path: Path) -> None:
    html, data = page.write(report(), tmp_path / "r")
    assert (html.name, data.name) == ("r.html", "r.json")
    assert reports.read(data) == report()


def test_texts_are_escaped() -> None:
    runs = [{**run("lake", 1), "accelerators": "<2>"}]
    environment = {**ENVIRONMENT, "processors": "<2>"}
    text = page.render(report(runs=runs, environment=environment))
    assert "a &lt;title&gt;" in text
    assert "h&lt;1&gt;" in text
    assert "fine &amp; good" in text
    assert "&lt;2&gt; × p" in text
    assert "<2>" not in text
    assert "<title>lakefeed bench: a &lt;title&gt;</title>" in text


def test_the_page_says_cold_or_warm_and_the_seed_where_they_are_known() -> None:
    assert "h&lt;1&gt;, warm page cache, seed 7</p>" in page.render(report(cold=False, seed=7))
    assert "h&lt;1&gt;, cold: page cache dropped" in page.render(report(cold=True))
    assert "h&lt;1&gt;</p>" in page.render(report(kind="monitor"))
    compared = reports.compare([("a", report()), ("b", report())])
    assert "warm page cache" not in page.render(compared)


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ({}, "GPU busy 81.0 %, SM 55.0 %, 412 W, 0.31 J a sample"),
        ({"sm": None, "watts": None, "joules_per_sample": None}, "GPU busy 81.0 %"),
        ({"busy": None, "sm": None}, "GPU busy not told, 412 W, 0.31 J a sample"),
        ({"names": [], "busy": None}, "no GPU"),
        (
            {"names": ["g", "g"], "sm": None, "joules_per_sample": None},
            "GPU busy 81.0 %, mean of 2 GPUs, 412 W",
        ),
    ],
)
def test_page_and_verdict_tell_what_the_driver_tells(gpu: dict[str, Any], words: str) -> None:
    known = {"names": ["g"], "busy": 0.81, "sm": 0.55, "watts": 412.3, "joules_per_sample": 0.31}
    stalls = {"compute_share": 0.5, "prepare_share": 0.25, "fetch_share": 0.25}
    more = {"gpu": {**known, **gpu}, "stalls": stalls, "steps": 100, **RATES}
    mine = {**run("lake", 1), **more}
    assert f">{words}</" in page.render(report(runs=[mine], emulated=False))
    assert f"; {words}; " in verdict.real_line(mine, "cnn", None)
    assert f"; {words}; " in verdict.monitored(mine)


def test_what_nobody_counted_is_not_a_figure() -> None:
    mine = {**run("training", 1), "read_bytes": 0, "read_amplification": 0.0}
    text = page.render(report(kind="monitor", runs=[mine], emulated=False))
    assert ">ampl.<" not in text
    assert ">read MB/s<" not in text
    assert "0.00" not in benching.run_row(mine)
    ceiling = {**mine, "source": "null"}
    assert ">ampl.<" in page.render(report(ceiling=ceiling))
    assert "0.00" in benching.run_row(ceiling)


def test_sections_follow_the_facts() -> None:
    titles = [title for title, _, _ in page.sections(report())]
    assert titles == ["Side by side", "Over time", "Waiting for batches"]
    points = [{"accelerators": 1, "utilisation": 0.9}]
    sweeps = {"lake": {"most": 1, "highest_tried": 1, "points": points}}
    stalls = {"compute_share": 0.5, "prepare_share": 0.25, "fetch_share": 0.25}
    timed = {**run("lake", 1), "stalls": stalls, **RATES}
    whole = report(sweeps=sweeps, runs=[timed])
    titles = [title for title, _, _ in page.sections(whole)]
    assert {"How many can it feed?", "Where the time goes"} < set(titles)
    slow = report(runs=[{**timed, "ceiling_per_second": 2.0}])  # it shows no stalls of anything
    assert "Where the time goes" not in [title for title, _, _ in page.sections(slow)]
    text = page.render(whole)
    assert "<b>1 or more</b>x fed by lake" in text
    assert "lake: feeds 1 or more" in text


def feed(name: str, rate: float, amplification: float = 1.0) -> dict[str, Any]:
    return {
        "name": name, "samples_per_second": rate, "bytes_per_second": rate * 1e5,
        "read_amplification": amplification, "cpu_per_thousand_samples": 0.1,
        "peak_rss_bytes": 10, "wait_seconds": {"p50": 0.1, "p99": 0.2},
    }  # fmt: skip


def test_a_feeds_picture_and_tiles_are_of_what_was_read() -> None:
    rows = [
        feed("memory (ceiling)", 26e6, 0.0), feed("bare reads (ceiling)", 9000),
        feed("batch 32", 100), feed("batch 256", 200),
    ]  # fmt: skip
    found = report(kind="feed", feeds=rows, runs=[], emulated=False)
    assert tables.tiles(found)[:2] == [
        ("200", "samples/s at best: batch 256"),
        ("9,000", "samples/s, bare reads (ceiling)"),
    ]
    _, picture = [content for _, _, content in page.sections(found)]
    assert ">bare reads (ceiling)<" in picture
    assert ">memory (ceiling)<" not in picture


def test_the_verdict_can_be_read_on_its_colour_in_either_theme() -> None:
    """White on it has the contrast of 4.5 that WCAG wants."""
    colours = re.findall(r"\.verdict[.a-z]* \{[^}]*background: #(\w{6})", page.render(report()))
    assert len(colours) == 3
    for colour in colours:
        shares = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (((share + 0.055) / 1.055) ** 2.4 for share in shares)
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert 1.05 / (light + 0.05) >= 4.5, colour


def test_a_real_trainings_ceiling_is_no_utilisation() -> None:
    mine = report(ceiling=run("null", 9), emulated=False)
    assert ("50.0 %", "compute share, batches from memory") in tables.tiles(mine)


def test_every_source_has_its_tile() -> None:
    runs = [run(str(number), 1) for number in range(5)]
    assert len(tables.tiles(report(runs=runs))) == 5


def test_marks_of_a_plot_are_plain_figures() -> None:
    cells = [
        {"name": "stat", "concurrency": count, "knee": 1, "calls_per_second": rate}
        for count, rate in ((1, 300.0), (4, 2_500_000.0))
    ]
    pages = [
        page.render(report(kind="volume", calls=cells, runs=[])),
        page.render(report(kind="volume", calls=cells[1:], runs=[])),
        page.render(report(kind="feed", feeds=[feed("a", 3e7), feed("b", 1)], runs=[])),
    ]
    for text in pages:
        assert "mathdefault" not in text
        assert ">1e" not in text
    assert ">1,000,000<" in pages[0]


def test_a_comparison_gives_ratios_and_warnings() -> None:
    other = report(200, cold=True, environment={**ENVIRONMENT, "host": "h2"})
    found = reports.compare([("one", report()), ("two", other)])
    assert [(c["source"], c["samples_per_second"]) for c in found["changes"]] == [
        ("lake", 2.0),
        ("plain", 1.0),
    ]
    assert "samples/s ×2.00" in found["lines"][0]
    assert "different host: one: h<1>, two: h2" in found["notes"]
    assert "<svg" in page.render(found)


@pytest.mark.parametrize(
    ("passed", "line", "kind"),
    [
        (True, "PASS", ""),
        (False, "FAIL", "failed"),
        (None, "fine", "plain"),
        (True, "TOO SMALL TO MEAN MUCH (2 steps in 0.1 s). PASS", "plain"),
        (False, "TOO SMALL TO MEAN MUCH (2 steps in 0.1 s). FAIL", "plain"),
    ],
)
def test_only_a_run_that_means_something_is_green_or_red(
    passed: bool | None, line: str, kind: str
) -> None:
    text = page.render(report(passed=passed, lines=[line]))
    assert f'<div class="verdict {kind}">{line}</div>' in text


def test_a_comparison_calls_no_run_cold_that_was_warm() -> None:
    found = reports.compare([("one", report(cold=True)), ("two", report(cold=False))])
    assert found["notes"] == ["different page cache: one: cold, two: warm"]
    assert "page cache dropped" not in page.render(found)
    both = reports.compare([("one", report(cold=True)), ("two", report(cold=True))])
    assert both["notes"] == []
    assert "page cache dropped" in page.render(both)


def test_a_comparison_calls_simulated_what_is() -> None:
    nas = report(simulated_volume="simulated volume 'nas': 1 ms a call")
    real = report(emulated=False)
    same = reports.compare([("one", nas), ("two", nas)])
    assert same["lines"][0].startswith(
        "two against the first, lake (emulated, simulated volume 'nas'): busy"
    )
    assert "On a simulated volume &#x27;nas&#x27;: 1 ms a call." in page.render(same)
    for pair, words in (
        ((nas, real), "real; the first: emulated, simulated volume 'nas'"),
        ((real, nas), "emulated, simulated volume 'nas'; the first: real"),
        ((report(), nas), "emulated, simulated volume 'nas'; the first: emulated"),
    ):
        found = reports.compare([("one", pair[0]), ("two", pair[1])])
        assert all(f" ({words}): " in line for line in found["lines"])
        simulated = [run["source"] for run in found["runs"] if "simulated)" in run["source"]]
        assert len(simulated) == len(nas["runs"])
        assert "different simulated volume: " in "".join(found["notes"])
        text = page.render(found)
        assert "On a simulated volume" not in text
        assert ("AU (emulated)" in text) == (real not in pair)
    feeds = {"runs": [], "emulated": False}
    named = report(**feeds, feeds=[feed("b 32 (simulated volume 'nas')", 1)])
    named["simulated_volume"] = nas["simulated_volume"]
    compared = reports.compare([("one", named), ("two", named)])
    assert compared["feeds"][0]["name"] == "one: b 32 (simulated volume 'nas')"


def test_a_comparison_names_other_volumes_kinds_and_numbers() -> None:
    def on(kind: str) -> dict[str, Any]:
        return {**ENVIRONMENT, "mount": {"type": kind, "source": "s", "point": "/m", "options": ""}}

    four = report(runs=[{**run("lake", 1), "accelerators": 4}], environment=on("nfs4"))
    real = report(runs=[run("lake", 1)], environment=on("ext4"), emulated=False, workload=None)
    assert reports.compare([("one", report()), ("two", report())])["notes"] == []
    assert reports.compare([("one", four), ("two", real)])["notes"] == [
        "different volume: one: nfs4 s at /m, two: ext4 s at /m",
        "different kind: one: train, emulated, two: train",
        "different accelerators: one: 4, two: 1",
    ]


def test_a_comparison_names_what_was_trained() -> None:
    other = {"name": "w", "accelerator": "y"}
    real = {"framework": "torch", "model": "cnn", "trained_on": "cpu", "batch_size": 32}
    reports_ = [report(), report(workload=other), report(workload=None, real=real)]
    found = reports.compare([(str(number), one) for number, one in enumerate(reports_)])
    assert found["notes"] == ["different workload: 0: w/x, 1: w/y, 2: torch cnn cpu 32"]


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in run("lake", 1).items() if name != key}


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"environment": {**ENVIRONMENT, "mount": {"type": "nfs4"}}}, "environment.mount"),
        ({"workload": "w"}, "workload"),
        ({"real": [1]}, "real"),
        ({"runs": 7}, "runs"),
        ({"feeds": {"a": 1}}, "feeds"),
        ({"runs": [run("lake", 1), 7]}, "runs[1]"),
        ({"runs": [{**run("lake", 1), "source": []}]}, "runs[0].source"),
        ({"runs": [{**run("lake", 1), "samples_per_second": "7"}]}, "runs[0].samples_per_second"),
        ({"runs": [{**run("lake", 1), "bytes_per_second": 10**400}]}, "runs[0].bytes_per_second"),
        ({"runs": [{**run("lake", 1), "accelerators": {}}]}, "runs[0].accelerators"),
        ({"runs": [{**run("lake", 1), "wait_seconds": {"p50": 1}}]}, "runs[0].wait_seconds"),
        ({"runs": [{**run("lake", 1), "utilisation": "high"}]}, "runs[0].utilisation"),
        ({"runs": [without("wait_seconds")]}, "runs[0].wait_seconds"),
        ({"runs": [without("utilisation")]}, "runs[0].utilisation"),
        ({"runs": [], "feeds": [without("peak_rss_bytes")]}, "feeds[0].peak_rss_bytes"),
    ],
)
def test_a_report_that_others_wrote_is_invalid_and_says_where(
    tmp_path: Path, more: dict[str, Any], where: str
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(report(**more)))
    with pytest.raises(Invalid) as caught:
        reports.read(tmp_path / "r.json")
    assert caught.value.found == f"something else as {where}"


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "1" * 10_000, "\ufeff{}", "{"],
    ids=["deep", "long", "marked", "cut"],
)
def test_what_no_json_reader_takes_is_invalid(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(Invalid):
        reports.read(tmp_path / "r.json")


def test_a_comparison_of_runs_that_are_too_small_says_so() -> None:
    small = report(runs=[{**run("lake", 1), "steps": 6}])
    whole = report(runs=[{**run("lake", 1), "steps": 600}])
    found = reports.compare([("one", whole), ("two", small)])
    assert found["verdict"].startswith("TOO SMALL TO MEAN MUCH (6 steps in 9.0 s). two against")
    assert found["next"].startswith("measure longer")
    found = reports.compare([("one", whole), ("two", whole)])
    assert found["verdict"].startswith("two against the first")


def test_more_runs_than_colours_are_told_apart() -> None:
    runs = [run(str(number), 1) for number in range(6)]
    text = plots.timelines(runs, "t")
    assert text.count("stroke-dasharray") == 2 + 1, "in both pictures, and in the legend"
    assert "stroke-dasharray" not in plots.timelines(runs[:5], "t")


def test_one_report_cannot_be_compared() -> None:
    volume = report(runs=[], kind="volume")
    for others in ([], [("volume", volume)]):
        with pytest.raises(Invalid, match=r"two or more with runs, found 1 of .*bench train"):
            reports.compare([("one", report()), *others])


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": "other"}', json.dumps({"schema": reports.SCHEMA})]
)
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(Invalid, match=r"x\.json"):
        reports.read(path)
    with pytest.raises(NotFound):
        reports.read(tmp_path / "none.json")


def test_json_holds_plain_values_only() -> None:
    assert json.loads(json.dumps(report())) == report()


def test_reports_of_one_run_each_are_compared_whatever_they_read() -> None:
    other = report()
    other["runs"] = [{**other["runs"][0], "source": "plain"}]
    one = report()
    one["runs"] = one["runs"][:1]
    found = reports.compare([("plain", other), ("lake", one)])
    (change,) = found["changes"]
    assert change["source"] == f"plain to {one['runs'][0]['source']}"
    assert "nothing in common" not in found["verdict"]


def test_reports_of_feeds_are_read_and_compared_as_those_of_trainings(tmp_path: Path) -> None:
    read = [reports.read(page.write(report(runs=[], feeds=[feed("b", rate)]), tmp_path / "r")[1])
            for rate in (100, 300)]  # fmt: skip
    found = reports.compare([("one", read[0]), ("two", read[1])])
    assert ([row["name"] for row in found["feeds"]], found["runs"]) == (["one: b", "two: b"], [])
    assert found["changes"][0]["samples_per_second"] == 3
