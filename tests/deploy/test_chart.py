"""The chart renders, and Kubernetes would take it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import (
    CHART,
    KUSTOMIZATIONS,
    MANIFESTS,
    VALUE_SETS,
    Document,
    chart,
    helm,
    kustomize,
    manifest,
    pod_of,
    rendered,
)

# The oldest release that the chart names, and the newest one there are schemas for.
RELEASES = ("1.31", "1.37")
CUSTOM = "monitoring.coreos.com/v1"  # judged in test_custom_resources.py

pytestmark = pytest.mark.slow


def of_kind(documents: tuple[Document, ...], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def refused(documents: tuple[Document, ...]) -> list[str]:
    """What a strict API server would say against these objects."""
    checker: Any = pytest.importorskip("kubernetes_validate", reason="PyPI kubernetes-validate")
    found = []
    for document in documents:
        if document["apiVersion"] == CUSTOM:
            continue
        for release in RELEASES:
            try:
                checker.validate(document, release, strict=True)
            except checker.ValidationError as error:
                where = ".".join(str(part) for part in error.path)
                found.append(f"{document['kind']} {where} ({release}): {error.message}")
    return found


@pytest.mark.parametrize("values", VALUE_SETS)
def test_helm_finds_nothing_to_complain_about(values: str) -> None:
    files = ["-f", str(CHART / "ci" / values)] if values else []
    done = helm("lint", "--strict", str(CHART), *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("values", VALUE_SETS)
def test_what_the_chart_renders_is_valid(values: str) -> None:
    assert chart(values)
    assert refused(chart(values)) == []


@pytest.mark.parametrize("directory", KUSTOMIZATIONS)
def test_what_kustomize_builds_is_valid(directory: str) -> None:
    assert kustomize(directory)
    assert refused(kustomize(directory)) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_plain_manifest_is_valid(name: str) -> None:
    assert refused(manifest(name)) == []


def test_a_misspelled_field_and_a_wrong_type_are_noticed() -> None:
    pod: Document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "x", "image": "x", "volumeMountz": []}]},
    }
    assert any("volumeMountz" in line for line in refused((pod,)))
    pod["spec"]["containers"] = [{"name": "x", "image": "x", "tty": "yes"}]
    assert any("'yes' is not of type" in line for line in refused((pod,)))


def test_every_lake_gets_its_jobs_and_one_daemon_serves_all() -> None:
    documents = chart("everything-values.yaml")
    cron = {document["metadata"]["name"] for document in of_kind(documents, "CronJob")}
    assert cron == {f"demo-lakefeed-{v}-{n}" for v in ("gc", "scrub") for n in ("main", "archive")}
    (daemon,) = of_kind(documents, "Deployment")
    pod = pod_of(daemon)
    assert pod is not None
    arguments = pod["containers"][0]["args"]
    assert arguments[:3] == ["compactd", "/lakes/main", "/lakes/old/archive"]
    assert "--config=/etc/lakefeed/compactd.toml" in arguments


def test_the_daemon_collects_itself_when_there_is_no_job_for_it() -> None:
    def arguments(values: str, *settings: str) -> list[str]:
        (daemon,) = of_kind(chart(values, *settings), "Deployment")
        return list((pod_of(daemon) or {})["containers"][0]["args"])

    assert {"--gc-interval=0s", "--scrub-interval=0s"} <= set(arguments(""))
    alone = arguments("existing-values.yaml", "gc.keep=30d", "gc.grace=3d", "scrub.maxDuration=2h")
    assert not {"--gc-interval=0s", "--scrub-interval=0s"} & set(alone)
    assert {"--keep=30d", "--grace=3d", "--scrub-duration=2h"} <= set(alone)


def test_uninstalling_leaves_the_data_alone() -> None:
    for values in VALUE_SETS:
        for volume in of_kind(chart(values), "PersistentVolume"):
            assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        for claim in of_kind(chart(values), "PersistentVolumeClaim"):
            assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_static_volume_and_its_claim_find_each_other() -> None:
    for documents in (chart(""), chart("everything-values.yaml"), kustomize("overlays/nfs-static")):
        (volume,) = of_kind(documents, "PersistentVolume")
        (claim,) = of_kind(documents, "PersistentVolumeClaim")
        assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
        assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]
        assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""


def test_big_user_numbers_stay_whole(tmp_path: Path) -> None:
    """Helm reads the numbers of a file as floating point, and prints 1e+09 where it is not told."""
    values = tmp_path / "values.yaml"
    values.write_text("podSecurityContext: {runAsUser: 1000810000, runAsGroup: 1000810000}\n"
                      "mount: {enabled: true}\n")  # fmt: skip
    done = helm("template", "demo", str(CHART), "-f", str(values))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1000810000") >= 9
    assert "e+09" not in done.stdout


def test_mounts_run_as_any_user_with_its_groups(tmp_path: Path) -> None:
    """fusermount3 ends where /etc/passwd has no line for who calls it."""
    values = tmp_path / "values.yaml"
    values.write_text("podSecurityContext: {runAsUser: 1000810000, runAsGroup: 1000820000,"
                      " supplementalGroups: [5000]}\nmount: {enabled: true}\n")  # fmt: skip
    documents = rendered(values)
    assert refused(documents) == []
    (daemons,) = of_kind(documents, "DaemonSet")
    pod = pod_of(daemons) or {}
    assert pod["securityContext"] == {"supplementalGroups": [5000]}
    (container,) = pod["containers"]
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == "/etc/passwd"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == mount["name"]]
    (users,) = [
        document["data"]
        for document in of_kind(documents, "ConfigMap")
        if document["metadata"]["name"] == volume["configMap"]["name"]
    ]
    line = "lakefeed:x:1000810000:1000820000:lakefeed:/tmp:/usr/sbin/nologin"
    assert line in users[mount["subPath"]].splitlines()


def test_what_waits_in_a_writable_mount_evicts_nobody(tmp_path: Path) -> None:
    """A pod that puts more into an emptyDir than its sizeLimit is evicted, its mounts with it."""
    values = tmp_path / "values.yaml"
    values.write_text(
        "mount: {enabled: true, mounts: [{name: seen, lake: main, port: 9470},"
        " {name: work, lake: main, port: 9471, readWrite: true},"
        " {name: more, lake: main, port: 9472, readWrite: true, spool: 64GiB}]}\n"
    )
    documents = rendered(values)
    assert refused(documents) == []
    pod = pod_of(of_kind(documents, "DaemonSet")[0]) or {}
    volumes = {one["name"]: one for one in pod["volumes"]}
    spools = {}
    for container in pod["containers"]:
        places = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        for word in container["args"]:
            if word.startswith("--spool="):
                spools[container["name"]] = volumes[places[word.removeprefix("--spool=")]]
    assert spools == {
        "work": {"name": "spool-work", "emptyDir": {}},
        "more": {"name": "spool-more", "emptyDir": {}},
    }
    assert [word for c in pod["containers"] for word in c["args"] if "spool-size" in word] == [
        "--spool-size=64GiB"
    ]


def test_words_that_look_like_something_else_stay_words(tmp_path: Path) -> None:
    """A lake of 2024: to YAML that is a number, `on` a truth, and what is in brackets a list."""
    values = tmp_path / "values.yaml"
    values.write_text(
        'nameOverride: "7"\n'
        'lakes: [{name: "2024", path: "2024"}]\n'
        'volume: {kind: existing, claimName: "123"}\n'
        'serviceAccount: {name: "1"}\n'
        'compactd: {priorityClassName: "1", terminationGracePeriodSeconds: 1000000}\n'
        "gc: {activeDeadlineSeconds: 1209600}\n"
        'jobs: {import: {enabled: true, lake: "2024", sourceClaim: "2023"}}\n'
        'mount: {enabled: true, mounts: [{name: "2024", lake: "2024", port: 9470},'
        ' {name: "on", lake: "2024", port: 9471}]}\n'
    )
    assert refused(rendered(values, release="8")) == []
    values.write_text('volume: {nfs: {server: "[fd00::1]"}}\n')
    assert refused(rendered(values)) == []
    values.write_text('volume: {kind: dynamic, storageClassName: "1"}\n')
    assert refused(rendered(values)) == []


def test_a_lake_may_have_any_path(tmp_path: Path) -> None:
    """To YAML, " #" begins a comment and ": " ends a key: what is cut off is another directory."""
    values = tmp_path / "values.yaml"
    values.write_text('lakes: [{name: main, path: "team: a #1", inboxes: [{path: "in: #1"}]}]\n'
                      'jobs: {import: {enabled: true, sourceClaim: c, sourcePath: "/a #1",'
                      ' prefix: "raw #1"}, training: {enabled: true}}\n'
                      "mount: {enabled: true}\n")  # fmt: skip
    done = helm("template", "demo", str(CHART), "-f", str(values))
    assert done.returncode == 0, done.stderr
    pods = [pod for document in yaml.safe_load_all(done.stdout) if (pod := pod_of(document))]
    words = [
        [*container.get("command", ()), *container.get("args", ())]
        for pod in pods
        for container in (*pod.get("initContainers", ()), *pod["containers"])
    ]
    assert sum("/lakes/team: a #1" in found for found in words) == len(words) - 1 == 7
    assert ["import", "/source/a #1", "/lakes/team: a #1", "--prefix=raw #1", "--quiet"] in words


def test_names_stay_within_what_kubernetes_allows() -> None:
    long = "a-release-with-a-name-of-fifty-three-characters-in-all"[:53]
    done = helm(
        "template", long, str(CHART), "-f", str(CHART / "ci" / "everything-values.yaml"),
        "--set", "lakes[0].name=a-longish-lake1", "--set", "jobs.import.enabled=false",
        "--set", "jobs.training.enabled=false", "--set", "mount.enabled=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [
        line.split(": ")[1] for line in done.stdout.splitlines() if line.startswith("  name: ")
    ]
    cron = [name for name in names if "-gc-" in name or "-scrub-" in name]
    assert len(cron) == len(set(cron)) == 4
    assert all(len(name) <= 52 for name in cron)
    assert all(len(name) <= 63 for name in names if not name.startswith("default-"))


def test_each_mount_is_scraped_by_a_port_name_of_its_own(tmp_path: Path) -> None:
    """Kubernetes wants at most 15 letters, no dash at the end, and no name twice in a pod."""
    values = tmp_path / "values.yaml"
    names = ("imagenet-train1", "imagenet-train2", "abcdefghijkl-xy", "a--b")
    mounts = ", ".join(f"{{name: {n}, lake: main, port: {9470 + i}}}" for i, n in enumerate(names))
    values.write_text(f"mount: {{enabled: true, mounts: [{mounts}]}}\n"
                      "monitoring: {serviceMonitor: {enabled: true}}\n")  # fmt: skip
    done = helm("template", "demo", str(CHART), "-f", str(values))
    assert done.returncode == 0, done.stderr
    documents = tuple(document for document in yaml.safe_load_all(done.stdout) if document)
    (daemons,) = of_kind(documents, "DaemonSet")
    pod = pod_of(daemons) or {}
    ports = [port["name"] for container in pod["containers"] for port in container["ports"]]
    (monitor,) = of_kind(documents, "PodMonitor")
    assert ports == [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    assert len(set(ports)) == len(names)
    assert all(re.fullmatch(r"(?=.{1,15}$)[a-z0-9]+(-[a-z0-9]+)*", port) for port in ports)


def test_helm_and_kustomize_run_the_same_daemon() -> None:
    """Two descriptions of one thing drift apart unless somebody compares them."""

    def daemon(documents: tuple[Document, ...]) -> dict[str, Any]:
        (deployment,) = of_kind(documents, "Deployment")
        pod = pod_of(deployment) or {}
        (container,) = pod["containers"]
        keys = ("args", "env", "ports", "securityContext", "resources", "volumeMounts")
        probes = ("startupProbe", "livenessProbe", "readinessProbe")
        context = {k: v for k, v in pod["securityContext"].items() if v}
        return {key: container[key] for key in (*keys, *probes)} | {
            "pod": context,
            "grace": pod["terminationGracePeriodSeconds"],
            "replicas": deployment["spec"]["replicas"],
            "strategy": deployment["spec"]["strategy"],
        }

    assert daemon(chart("")) == daemon(kustomize("overlays/nfs-static"))


def test_helm_and_kustomize_run_the_same_jobs() -> None:
    def jobs(documents: tuple[Document, ...]) -> dict[str, Any]:
        found = {}
        for job in of_kind(documents, "CronJob"):
            (container,) = (pod_of(job) or {})["containers"]
            spec = job["spec"]
            found[container["args"][0]] = (
                container["args"],
                container["resources"],
                spec["schedule"],
                spec["concurrencyPolicy"],
                spec["jobTemplate"]["spec"]["podFailurePolicy"],
                spec["jobTemplate"]["spec"]["activeDeadlineSeconds"],
            )
        return found

    assert jobs(chart("")) == jobs(kustomize("overlays/nfs-static"))
