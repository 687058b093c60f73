"""The chart refuses values that make no sense, and takes odd ones that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.tools import CHART, chart, helm, rendered

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("compactd.replica=3", "replica"),
        ("compactd.replicas=0", "replicas"),
        ("volume.kind=s3", "kind"),
        ("volume.mountOptions={soft}", "mountOptions"),
        ("volume.mountOptions={nocto}", "mountOptions"),
        ("podSecurityContext.fsGroup=10001", "fsGroup"),
        ("podSecurityContext.runAsUser=0", "runAsUser"),
        ("image.tag=latest", "tag"),
        ("lakes[0].path=../elsewhere", "path"),
        ("gc.keep=forever", "keep"),
        ("gc.schedule=nightly", "schedule"),
        ("gc.keep=", "gc.keep"),
        ("scrub.maxDuration=", "scrub.maxDuration"),
        ("compactd.window=at night", "window"),
        ("compactd.window=22:00-24:00", "window"),
        ("compactd.timeZone=Europe Berlin", "timeZone"),
        ("compactd.lease=500ms", "lease"),
        ("compactd.lease=0.9s", "lease"),
        ("compactd.interval=0s", "interval"),
        ("compactd.rate=0MB/s", "rate"),
        ("monitoring.serviceMonitor.interval=", "interval"),
        ("fullnameOverride=Lake_One", "fullnameOverride"),
    ],
)
def test_a_value_without_sense_is_refused(setting: str, complaint: str) -> None:
    done = helm("template", "demo", str(CHART), "--set", setting)
    assert done.returncode != 0
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (("volume.kind=existing",), "volume.claimName is needed"),
        (("volume.kind=dynamic",), "volume.storageClassName is needed"),
        (("jobs.import.enabled=true",), "jobs.import.sourceClaim is needed"),
        (("jobs.bench.enabled=true", "jobs.bench.lake=main", "mount.enabled=true",
          "mount.mounts[0].name=x", "mount.mounts[0].lake=nowhere", "mount.mounts[0].port=9470"),
         'no lake named "nowhere"'),
    ],
)  # fmt: skip
def test_a_missing_value_is_named(settings: tuple[str, ...], complaint: str) -> None:
    chosen = [part for setting in settings for part in ("--set", setting)]
    done = helm("template", "demo", str(CHART), *chosen)
    assert done.returncode != 0
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("lakes: [{name: a, path: one}, {name: a, path: two}]", 'two lakes are named "a"'),
        ("lakes: [{name: a, path: one, inboxes: [{path: in}]}, {name: b, path: two,"
         " inboxes: [{path: in/}]}]", 'inbox "in" is not apart from the inbox at "in"'),
        ("lakes: [{name: a, path: one, inboxes: [{path: in}, {path: in/deep}]}]",
         'inbox "in/deep" is not apart from the inbox at "in"'),
        ("lakes: [{name: a, path: one, inboxes: [{path: two/in}]}, {name: b, path: two}]",
         'inbox "two/in" is not apart from lake "b" at "two"'),
        ("lakes: [{name: a, path: one/deep, inboxes: [{path: one}]}]",
         'inbox "one" is not apart from lake "a" at "one/deep"'),
        ("lakes: [{name: a, path: one, inboxes: [{path: day=1}]}]",
         'no "=" in their names'),
        ("volume: {mountPath: /a=b}\nlakes: [{name: a, path: one, inboxes: [{path: in}]}]",
         'no "=" in their names'),
        ("mount: {enabled: true, mounts: [{name: a, lake: main, port: 9470},"
         " {name: a, lake: main, port: 9471}]}", 'two mounts are named "a"'),
        ("mount: {enabled: true, mounts: [{name: a, lake: main, port: 9470},"
         " {name: b, lake: main, port: 9470}]}", "two mounts have port 9470"),
    ],
)  # fmt: skip
def test_what_must_be_apart_is_refused_where_it_is_not(
    values: str, complaint: str, tmp_path: Path
) -> None:
    """The program or Kubernetes would, when the release is running."""
    path = tmp_path / "values.yaml"
    path.write_text(values)
    done = helm("template", "demo", str(CHART), "-f", str(path))
    assert done.returncode != 0
    assert complaint in done.stderr


def test_names_that_begin_alike_are_apart(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(
        "lakes: [{name: in, path: in, inboxes: [{path: in-a}, {path: in-b}]},"
        " {name: in-a, path: inner}]"
    )
    rendered(path)


@pytest.mark.parametrize("lease", ["", "1s", "0.5m", "0.02m", "1500ms", "0.1h", "2.5m"])
def test_a_lease_of_a_second_or_more_is_taken_in_any_unit(lease: str) -> None:
    done = helm("template", "demo", str(CHART), "--set", f"compactd.lease={lease}")
    assert done.returncode == 0, done.stderr


def test_a_window_has_a_place_whose_time_it_is() -> None:
    def zone(*settings: str) -> list[str]:
        (pod,) = (
            one["spec"]["template"]["spec"]
            for one in chart("", *settings)
            if one["kind"] == "Deployment"
        )
        return [one["value"] for one in pod["containers"][0]["env"] if one["name"] == "TZ"]

    assert zone() == []
    assert zone("compactd.timeZone=Europe/Berlin") == ["Europe/Berlin"]
