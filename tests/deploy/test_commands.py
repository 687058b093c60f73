"""Every `lakefeed …` command line in `deploy/` and in OPERATIONS.md is one the program takes.

Arguments of containers, ExecStart= lines, scripts and code blocks are parsed by the real command
line parser; nothing is run. Settings files are held against the settings they name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from lakefeed.cli.app import app
from lakefeed.cli.service_settings import load
from tests.deploy.tools import DEPLOY, ROOT, VALUE_SETS, chart, containers, pod_of, pods

pytestmark = pytest.mark.slow

COMMAND = typer.main.get_command(app)
IMAGES = re.compile(r"(^|/)lakefeed(-mount)?:")
# How a root shell runs the program of `deploy/systemd`.
AS_OWNER = "runuser -u lakefeed -- /opt/lakefeed/bin/"
# Kubernetes and systemd fill these in before the program sees them.
FILLED = (
    ("$(POD_NAME)", "pod-0"),
    ("%f", "/mnt/lakes/main"),
    ("%H", "host"),
    ("${LAKE}", "/lake"),
    ("$OPTIONS", "--at=v1"),
)


def filled(words: list[str]) -> list[str]:
    for variable, value in FILLED:
        words = [word.replace(variable, value) for word in words]
    return words


def of_containers() -> Iterator[tuple[str, list[str]]]:
    for source, pod in pods():
        for container in containers(pod):
            where = f"{source} {container['name']}"
            if "command" not in container and IMAGES.search(container["image"]):
                yield where, filled(container["args"])
            for word in container.get("command", []):
                for script in re.findall(r"lakefeed [^|&;\n]*", word):
                    yield where, shlex.split(script)[1:]


def of_units() -> Iterator[tuple[str, list[str]]]:
    for path in sorted((DEPLOY / "systemd").iterdir()):
        for line in path.read_text(encoding="utf-8").splitlines():
            found = re.match(r"Exec\w+=[-+@!:]*/opt/lakefeed/bin/lakefeed (.*)", line)
            if found:
                yield path.name, filled(shlex.split(found[1]))


def of_documents() -> Iterator[tuple[str, list[str]]]:
    """Lines of code blocks that start with `lakefeed`, and `inline lakefeed commands`."""
    for path in (ROOT / "docs" / "OPERATIONS.md", DEPLOY / "README.md"):
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
        lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(lakefeed [^`]*)`", text)
        for line in (line.removeprefix(AS_OWNER) for line in lines):
            if line.startswith("lakefeed "):
                words = shlex.split(line, comments=True)[1:]
                if not any(word in {"…", "..."} for word in words):
                    yield path.name, words


def parsed(words: list[str]) -> dict[str, Any]:
    """The options of a command line, as the program's own parser reads them."""
    command: Any = COMMAND
    context = command.commands[words[0]].make_context(words[0], list(words[1:]))
    return dict(context.params)


def complaint(words: list[str]) -> str | None:
    """What the program's own parser has against a command line, or None."""
    command: Any = COMMAND
    names = ["lakefeed"]
    while isinstance(command, TyperGroup):
        if not words or words[0] not in command.commands:
            return f"{' '.join(names)} has no command {words[0] if words else ''}"
        command, names, words = command.commands[words[0]], [*names, words[0]], words[1:]
    if not words:  # the name of a command, as prose mentions it
        return None
    try:
        command.make_context(" ".join(names), list(words))
    except Exception as error:
        return f"{' '.join(names)}: {getattr(error, 'message', '') or error!r}"
    return None


def lines() -> Iterator[tuple[str, list[str]]]:
    yield from of_containers()
    yield from of_units()
    yield from of_documents()


def test_every_command_line_is_one_the_program_takes() -> None:
    found = list(lines())
    verbs = {words[0] for _, words in found}
    assert {"compactd", "gc", "scrub", "import", "bench", "mount", "create"} <= verbs
    wrong = sorted({f"{where}: {complaint(words)}" for where, words in found if complaint(words)})
    assert wrong == []


def test_a_wrong_command_line_is_noticed() -> None:
    assert complaint(["gc", "/lake", "--keep=7d"]) is None
    assert "no command" in (complaint(["collect", "/lake"]) or "")
    assert "--keeps" in (complaint(["gc", "/lake", "--keeps=7d"]) or "")
    assert complaint(["gc", "--keep=7d"]) is not None
    assert complaint(["gc", "/lake", "--keep=soon"]) is not None


def daemons() -> Iterator[tuple[str, list[str], str | None]]:
    """(where, command line, text of its settings file) of each compactd."""
    toml = (DEPLOY / "systemd" / "compactd.toml").read_text(encoding="utf-8")
    for where, words in of_units():
        if words[0] == "compactd":
            yield where, words, toml
    for source in VALUE_SETS:
        documents = chart(source)
        files = [d["data"] for d in documents if d["kind"] == "ConfigMap"]
        settings = [data["compactd.toml"] for data in files if "compactd.toml" in data]
        for document in documents:
            pod = pod_of(document) or {"containers": []}
            for container in pod["containers"]:
                if container.get("args", [""])[0] == "compactd":
                    text = settings[0] if settings else None
                    yield f"helm {source}", filled(container["args"]), text


def test_flags_and_settings_files_make_sense_together(tmp_path: Path) -> None:
    seen = []
    for where, words, text in daemons():
        options = parsed(words)
        assert (options["config"] is not None) == (text is not None), where
        config = tmp_path / "compactd.toml"
        config.write_text(text or "", encoding="utf-8")
        for other in ("config", "once", "as_json"):
            del options[other]
        service = load(options, str(config) if text else None).options(60.0)
        seen.append((where, service))
    assert len(seen) >= 4
    by_place = dict(seen)
    main, archive = by_place["helm everything-values.yaml"].lakes
    assert [inbox.prefix for inbox in main.inboxes] == ["raw/cameras", ""]
    assert archive.inboxes == ()
    assert by_place["helm everything-values.yaml"].gc_interval_seconds == 0
    assert by_place["helm existing-values.yaml"].gc_interval_seconds > 0
    assert by_place["lakefeed-compactd@.service"].rate_bytes == 100_000_000


def test_the_source_archive_has_what_the_manual_copies_from() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (include,) = re.findall(r"targets\.sdist\]\n(?:#.*\n)*include = \[(.*?)\]", text, re.S)
    names = re.findall(r'"(.*?)"', include)
    # Without the slash each would be any folder of that name, wherever it lies.
    assert {"/lakefeed", "/docs", "/deploy"} <= set(names)
    assert all(name.startswith("/") and (ROOT / name[1:]).exists() for name in names)
