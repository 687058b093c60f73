"""What every pod of `deploy/` keeps to, wherever it is described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.tools import DEPLOY, Document, containers, everything, pods

pytestmark = pytest.mark.slow

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def privileged(container: Document) -> bool:
    return bool(container["securityContext"].get("privileged"))


def test_nothing_runs_as_root_except_what_clears_dead_mounts() -> None:
    roots = set()
    for source, pod in pods():
        for container in containers(pod):
            context = {**pod.get("securityContext", {}), **container["securityContext"]}
            if context.get("runAsUser") == 0:
                roots.add(container["name"])
                continue
            assert context["runAsNonRoot"] is True, (source, container["name"])
            assert context["runAsUser"] > 0, (source, container["name"])
    assert roots == {"prepare"}


def test_only_mounts_are_privileged() -> None:
    for source, pod in pods():
        for container in containers(pod):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, source
            if privileged(container):
                assert container["image"].split(":")[0].endswith("lakefeed-mount"), source
                continue
            assert context["allowPrivilegeEscalation"] is False, source
            assert context["capabilities"] == {"drop": ["ALL"]}, source
            profile = {**pod.get("securityContext", {}), **context}["seccompProfile"]
            assert profile == {"type": "RuntimeDefault"}, source


def test_no_pod_has_an_fs_group() -> None:
    """The kubelet would change the attributes of every file, and every client drop its pages."""
    for source, pod in pods():
        assert "fsGroup" not in pod.get("securityContext", {}), source


def test_no_pod_can_talk_to_the_api_server() -> None:
    for source, pod in pods():
        assert pod["automountServiceAccountToken"] is False, source


def test_no_probe_touches_a_mount() -> None:
    """HTTP to the process itself; an `exec` may read a file and hang with the volume."""
    seen = 0
    for source, pod in pods():
        for container in containers(pod):
            for probe in PROBES:
                if probe in container:
                    path = container[probe].get("httpGet", {}).get("path")
                    assert path in {"/healthz", "/readyz"}, (source, probe)
                    seen += 1
            if "livenessProbe" in container:
                assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", source
    assert seen >= 10


def test_every_container_states_what_it_needs() -> None:
    for source, pod in pods():
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), (source, container["name"])
            assert "memory" in resources["limits"], (source, container["name"])
            assert "cpu" not in resources["limits"], (source, container["name"])


def test_every_image_has_a_tag_that_does_not_move() -> None:
    for source, pod in pods():
        for container in containers(pod):
            name, _, tag = container["image"].rpartition(":")
            assert name, (source, container["image"])
            assert re.match(r"\d", tag), (source, container["image"])


def test_the_service_needs_no_network() -> None:
    policies = [d for _, d in everything() if d["kind"] == "NetworkPolicy"]
    assert len(policies) >= 4
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert not policy["spec"].get("egress")
        assert all(rule["from"] and rule["ports"] for rule in policy["spec"]["ingress"])


def test_drains_are_never_blocked_for_ever() -> None:
    budgets = [d for _, d in everything() if d["kind"] == "PodDisruptionBudget"]
    assert budgets
    for budget in budgets:
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def mount_options() -> list[tuple[str, list[str]]]:
    """(where, options) of every NFS mount in `deploy/`: Kubernetes, systemd and fstab."""
    found = [
        (source, (d["spec"] if d["kind"] == "PersistentVolume" else d)["mountOptions"])
        for source, d in everything()
        if d["kind"] in {"PersistentVolume", "StorageClass"}
    ]
    text = (DEPLOY / "systemd" / "mnt-lakes.mount").read_text(encoding="utf-8")
    found += [("mnt-lakes.mount", re.findall(r"^Options=(.*)$", text, re.M)[0].split(","))]
    for line in (DEPLOY / "systemd" / "fstab.example").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if len(fields) == 6 and fields[2] == "nfs":
            found.append(("fstab.example", fields[3].split(",")))
    return found


def test_nfs_is_mounted_the_way_the_lake_wants_it() -> None:
    assert len(mount_options()) >= 6
    for source, options in mount_options():
        plain = set(options)
        assert {"hard", "nconnect=8", "rsize=1048576", "lookupcache=pos"} <= plain, source
        assert not plain & {"soft", "softerr", "nocto", "noac", "async", "nolock"}, source


def test_mount_propagation_is_what_each_side_needs() -> None:
    """The daemon's mounts must leave its container; whoever reads must see them come and go."""
    both = {True: "Bidirectional", False: "HostToContainer"}
    seen = set()
    for source, pod in pods():
        for container in containers(pod):
            for mount in container.get("volumeMounts", []):
                if "mountPropagation" in mount:
                    wanted = both[privileged(container)]
                    assert mount["mountPropagation"] == wanted, (source, container["name"])
                    seen.add(wanted)
    assert seen == set(both.values())


class Strict(yaml.SafeLoader):
    """A loader that refuses a key given twice."""


def unique(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[object, object]:
    keys = [str(key.value) for key, _ in node.value]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    assert not twice, f"{node.start_mark}: {twice}"
    return loader.construct_mapping(node, deep=True)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, unique)
FILES = [path for path in sorted(DEPLOY.rglob("*.yaml")) if "templates" not in path.parts]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_yaml_says_nothing_twice(path: Path) -> None:
    """A key given twice is legal YAML, and the first one is silently lost."""
    with path.open(encoding="utf-8") as file:
        list(yaml.load_all(file, Loader=Strict))


def test_a_key_given_twice_is_noticed() -> None:
    with pytest.raises(AssertionError, match="rate"):
        yaml.load("rate: 1\nwindow: 2\nrate: 3\n", Loader=Strict)
