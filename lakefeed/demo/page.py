"""The report as one HTML file: everything inline, readable offline, nothing to run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lakefeed.demo.plots import FILES, LAKE

_STYLE = f"""
:root {{ --lake: {LAKE}; --files: {FILES}; --ink: #22313a; --soft: #5d6f78; --line: #dfe6e9;
  --page: #f3f6f7; --card: white; --code: #eef3f4; color-scheme: light; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e4ecef; --soft: #9db0b9; --line: #2c3c44;
  --page: #11191d; --card: #18242a; --code: #24343c; color-scheme: dark; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
main {{ max-width: 980px; margin: 0 auto; padding: 40px 24px 64px; }}
h1 {{ font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }}
h2 {{ font-size: 19px; margin: 0 0 4px; }}
p {{ margin: 6px 0; }}
.soft {{ color: var(--soft); }}
.verdict {{ margin: 22px 0 20px; padding: 14px 18px; border-radius: 10px; color: white;
  background: #1c7a4d; font-weight: 600; }}
.verdict.failed {{ background: #b3362b; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }}
.tile, section {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; }}
.tile {{ padding: 12px 16px; }}
.tile b {{ display: block; font-size: 24px; line-height: 1.25; }}
section {{ padding: 20px 22px; margin-top: 16px; }}
section > img {{ display: block; max-width: 100%; margin: 10px auto 0; }}
section > img, .two > img {{ background: white; border-radius: 8px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; margin-top: 10px; font-size: 15px; }}
th, td {{ text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }}
th:first-child, td:first-child {{ text-align: left; }}
th {{ font-weight: 600; color: var(--soft); font-size: 13.5px; }}
.left td, .left th {{ text-align: left; }}
code {{ font: 14px ui-monospace, "DejaVu Sans Mono", monospace; background: var(--code);
  padding: 1px 5px; border-radius: 4px; }}
.sheet {{ margin-top: 12px; overflow-x: auto; }}
.row {{ display: flex; align-items: center; gap: 6px; margin-bottom: 6px; }}
.row > span {{ width: 90px; flex: none; overflow: hidden; text-overflow: ellipsis;
  font-weight: 600; }}
.row img, .mistakes img {{ width: 60px; height: 60px; object-fit: contain; border-radius: 6px;
  background: #10191d; image-rendering: pixelated; }}
.photos .row img, .photos .mistakes img {{ image-rendering: auto; }}
.two {{ display: grid; grid-template-columns: 1fr 1fr; gap: 24px; align-items: start; }}
.two img {{ max-width: 100%; }}
.mistakes {{ display: flex; flex-wrap: wrap; gap: 12px; margin-top: 10px; }}
.mistakes figure {{ margin: 0; width: 84px; font-size: 13px; line-height: 1.3;
  text-align: center; }}
.mistakes figcaption {{ overflow-wrap: anywhere; }}
.key {{ display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }}
@media (max-width: 700px) {{ .two {{ grid-template-columns: 1fr; }} }}
"""


def render(facts: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """Return the whole page."""
    photos = "" if facts["recipe"]["channels"] == 1 else ' class="photos"'
    parts = [
        _head(facts),
        _tiles(facts),
        _samples(facts, pictures),
        _split(facts),
        _training(facts, pictures),
        _validation(facts, pictures),
        _comparison(facts),
        _accelerators(facts, pictures),
        _history(facts),
        _foot(facts),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>lakefeed demo</title><style>{_STYLE}</style></head>"
        f"<body{photos}><main>\n{''.join(parts)}</main></body></html>\n"
    )


def _head(facts: Mapping[str, Any]) -> str:
    failed = "" if facts["passed"] else " failed"
    verdict = facts["verdict"]
    return (
        "<h1>From picture files to a trained model, through one lake</h1>"
        f'<p class="soft">{escape(facts["source"])}: imported, split, trained on, and the model '
        "saved in, loaded from and validated against the same lake.</p>"
        f'<div class="verdict{failed}">{escape(verdict[0].upper() + verdict[1:])}</div>\n'
    )


def _tiles(facts: Mapping[str, Any]) -> str:
    imported, validation = facts["imported"], facts["validation"]
    tiles = [
        (f"{imported['files']:,}", "files imported"),
        (_size(imported["bytes"]), f"in {imported['packs']} pack, {imported['seconds']:.2f} s"),
        (f"{len(facts['classes'])}", "classes"),
        (f"{validation['accuracy']:.1%}", f"of {validation['pictures']:,} held-out pictures"),
        (f"{facts['seconds']:.0f} s", "for the whole demo"),
    ]
    cells = (f'<div class="tile"><b>{value}</b>{name}</div>' for value, name in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>\n'


def _samples(facts: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    rows = []
    for name, samples in pictures["sheet"].items():
        images = "".join(_image(data, path) for path, data in samples)
        rows.append(
            f'<div class="row"><span title="{escape(name)}">{escape(name)}</span>{images}</div>'
        )
    return (
        "<section><h2>What is in the lake</h2>"
        "<p>Pictures of each class, and the first of each, read back from the lake.</p>"
        f"{_image(pictures['histogram'], 'pictures in each class')}"
        f'<div class="sheet">{"".join(rows)}</div></section>\n'
    )


def _split(facts: Mapping[str, Any]) -> str:
    split = facts["split"]
    left_out = split["left_out"]
    rest = f" {left_out:,} files are no PNG or JPEG and were left out." if left_out else ""
    return (
        "<section><h2>Split without copying bytes</h2>"
        f"<p>{split['train']:,} pictures were copied to <code>train/</code> and "
        f"{split['held_out']:,} to <code>val/</code> inside the lake, in one commit of "
        f"{split['seconds']:.2f} s. A checksum of each name decides, so the split is the same "
        f"wherever it is made.{rest} A copy is a row, not bytes: the payloads took "
        f"{split['payload_bytes_before']:,} bytes before and {split['payload_bytes_after']:,} "
        f"after. The tag <code>split</code> keeps snapshot {split['snapshot']}.</p></section>\n"
    )


def _training(facts: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    recipe, model = facts["recipe"], facts["model"]
    return (
        "<section><h2>Training</h2>"
        f"<p>LeNet with {model['parameters']:,} weights on {recipe['side']}×{recipe['side']} "
        f"pixels, batches of {recipe['batch_size']}, {recipe['epochs']} epochs, seed "
        f"{recipe['seed']}; once from <code>lakefeed.tf.dataset</code>, once from the plain files. "
        "The order differs, everything else is equal.</p>"
        f"{_image(pictures['curves'], 'loss and accuracy after each epoch')}</section>\n"
    )


def _validation(facts: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    model, validation = facts["model"], facts["validation"]
    same = "bit for bit the same weights" if model["same_weights"] else "DIFFERENT weights"
    figures = "".join(
        f"<figure>{_image(data, path)}<figcaption>{escape(was)}, said {escape(said)}</figcaption>"
        "</figure>"
        for path, was, said, data in pictures["mistakes"]
    )
    mistakes = validation["pictures"] - validation["right"]
    shown = f"the first {len(pictures['mistakes'])} of {mistakes}" if mistakes else "none"
    return (
        "<section><h2>The model, read back from the lake</h2>"
        f"<p><code>{escape(model['path'])}</code>, {_size(model['bytes'])}: saved into the lake, "
        f"loaded from it with {same}, then asked about {validation['pictures']:,} pictures it "
        f"never saw, read from the lake as well: <b>{validation['accuracy']:.1%}</b> right.</p>"
        f'<div class="two">{_image(pictures["confusion"], "confusion of classes")}'
        f'<div><p><b>Mistakes</b> <span class="soft">({shown})</span></p>'
        f'<div class="mistakes">{figures}</div></div></div></section>\n'
    )


def _comparison(facts: Mapping[str, Any]) -> str:
    lake, files = facts["training"]["lake"], facts["training"]["files"]
    count = facts["split"]["train"]
    rows = [
        ("held-out accuracy after the last epoch", _percent, "held_out_accuracy"),
        ("seconds an epoch, median without the first", _seconds, "epoch_seconds_median"),
        (
            "seconds in the first epoch (builds TensorFlow's graphs)",
            _seconds,
            "first_epoch_seconds",
        ),
        (f"seconds to read {count:,} pictures, undecoded, shuffled", _seconds, "reading_seconds"),
    ]
    body = "".join(
        f"<tr><td>{name}</td><td>{show(lake[key])}</td><td>{show(files[key])}</td></tr>"
        for name, show, key in rows
    )
    return (
        "<section><h2>Lake and plain files, side by side</h2>"
        '<div class="scroll"><table>'
        f"<tr><th></th><th>{_key('lake')}lake</th><th>{_key('files')}plain files</th></tr>"
        f"{body}</table></div>"
        '<p class="soft">Same machine, same run; checksums are verified on the lake\'s side only. '
        "So few bytes on a local disk sit in the page cache, and decoding and training take most "
        "of an epoch, so no big difference is to be expected here. A lake is made for what comes "
        "after: volumes on which opening each file costs a round trip, and more files than a "
        "directory tree can bear.</p></section>\n"
    )


def _accelerators(facts: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    found = facts.get("accelerators")
    if not found:
        return ""
    rows = "".join(
        f"<tr><td>{escape(case['workload'])}</td>"
        f'<td style="text-align: left">{_key(kind)}{name}</td>'
        f"<td>{one['utilisation']:.1%}</td><td>{one['samples_per_second']:,.0f}</td>"
        f"<td>{one['most']}{_or_more(one)}</td><td>{case['allows'][source]:.1f}</td></tr>"
        for case in found
        for source, kind, name in (("plain", "files", "plain files"), ("lake", "lake", "lake"))
        for one in (case["sources"][source],)
    )
    thresholds = " and ".join(f"{case['threshold']:.0%}" for case in found)
    return (
        "<section><h2>Plain files and lake on an emulated slow volume</h2>"
        "<p>How busy the same volume keeps accelerators of MLPerf Storage's workloads, and how "
        f"many it feeds at AU {thresholds}. Accelerators are <b>emulated</b>: they wait for the "
        "published computation time of each batch. The volume is <b>simulated</b>: "
        f"{escape(found[0]['volume'].partition(': ')[2])}, for all of them together. "
        "Files, lake and reads are real; plain files are read by eight threads an accelerator, as "
        "DLIO's own loader does.</p>"
        f"{_image(pictures['accelerators'], 'AU over emulated accelerators, simulated volume')}"
        '<div class="scroll"><table><tr><th>emulated, simulated volume</th><th></th>'
        "<th>AU of one</th><th>samples/s of one</th><th>feeds</th><th>the volume allows</th></tr>"
        f"{rows}</table></div>"
        f'<p class="soft">{_how(found)}</p></section>\n'
    )


def _how(found: Sequence[Mapping[str, Any]]) -> str:
    scaled = [
        f" Batches of {case['workload']} are {case['batch_size']} samples in "
        f"{case['computation_seconds'] * 1e3:.0f} ms here, the published ones "
        f"{case['batch_size_published']} in {case['computation_seconds_published'] * 1e3:.0f} ms: "
        "the same samples a second in shorter steps."
        for case in found
        if case["batch_size"] != case["batch_size_published"]
    ]
    return (
        "What the volume allows is arithmetic: each plain file takes two of its calls, open and "
        "read, each sample of a lake one at most, and all share its bytes. What is fed was "
        "measured, by the processors of this machine, which emulate accelerators and volume "
        f"besides: {found[0]['steps']} steps a run, after a warm-up of "
        f"{found[0]['warmup_steps']} batches that uses up what was read ahead; AU leaves out the "
        f"first step, as MLPerf Storage has it.{''.join(scaled)} No MLPerf result."
    )


def _or_more(one: Mapping[str, Any]) -> str:
    return " or more" if one["most"] == one["highest_tried"] else ""


def _history(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{commit['number']}</td><td>{escape(commit['operation'])}</td>"
        f"<td>{escape(commit['message'] or '')}</td></tr>"
        for commit in facts["commits"]
    )
    return (
        "<section><h2>What happened in the lake</h2>"
        '<p>Each line is a snapshot that can still be opened.</p><table class="left">'
        f"<tr><th>snapshot</th><th>operation</th><th>message</th></tr>{rows}</table></section>\n"
    )


def _foot(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    return f'<p class="soft">{escape(versions)}. All figures are in report.json.</p>\n'


def _image(data: bytes, text: str) -> str:
    encoded = base64.b64encode(data).decode("ascii")
    return (
        f'<img alt="{escape(text)}" title="{escape(text)}" src="data:image/png;base64,{encoded}">'
    )


def _key(name: str) -> str:
    return f'<span class="key" style="background: var(--{name})"></span>'


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} bytes"
