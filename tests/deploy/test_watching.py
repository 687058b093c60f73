"""The whole chain, for real: a daemon at work, Prometheus that scrapes it, rules and dashboard.

Prometheus' own server runs the shipped rules on what `lakefeed compactd` really exposes, and
answers every query of the dashboard.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lakefeed import Lake
from tests.deploy.test_commands import complaint
from tests.deploy.test_monitoring import expressions
from tests.deploy.tools import MONITORING, ROOT, tool
from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import kept_port

pytestmark = pytest.mark.slow


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return str(answer.read().decode())


def until(what: str, ask: Callable[[], Any], server: subprocess.Popen[bytes] | None = None) -> Any:
    """Return the first answer that is true; connection errors are answers that are not.

    A server that has ended is not waited for.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert server is None or server.poll() is None, f"no {what}: it has ended"
        try:
            found = ask()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen in {PATIENCE_SECONDS:g} s")


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for as long as the block lasts; its log is shown when the block fails."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    try:
        yield process
    except BaseException:
        print(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a daemon that has taken in a file."""
    if complaint(["compactd", "/lake", "--once"]):
        pytest.skip("lakefeed compactd is not in the program yet")
    where = tmp_path_factory.mktemp("watching")
    Lake.create(where / "lake").close()
    (where / "inbox").mkdir()
    (where / "inbox" / "a.txt").write_text("a")
    command = [sys.executable, "-m", "lakefeed", "compactd", str(where / "lake"),
               f"--inbox={where / 'inbox'}", "--inbox-quiet=1s", "--pack-age=1s",
               "--log-format=json"]  # fmt: skip
    with (
        kept_port() as port,
        running([*command, f"--listen=127.0.0.1:{port}"], where / "compactd.log") as server,
    ):
        until("readiness", lambda: fetch(f"http://127.0.0.1:{port}/readyz"), server)
        until("ingest", lambda: "files_packed_total" in fetch(f"http://127.0.0.1:{port}/metrics"))
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def prometheus(daemon: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus that scrapes the daemon every second and has the rules loaded."""
    where = tmp_path_factory.mktemp("prometheus")
    shutil.copy(MONITORING / "alerts.yaml", where)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [
            {"job_name": "lakefeed", "static_configs": [{"targets": [daemon]}]},
        ],
    }
    (where / "prometheus.yml").write_text(yaml.safe_dump(config))
    program = tool("prometheus", "Debian prometheus")
    command = [
        program,
        f"--config.file={where}/prometheus.yml",
        f"--storage.tsdb.path={where}/data",
    ]
    with (
        kept_port() as port,
        running(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], where / "prometheus.log"
        ) as server,
    ):
        base = f"http://127.0.0.1:{port}"
        until("readiness", lambda: fetch(f"{base}/-/ready"), server)
        until("the first scrape", lambda: ask(base, "query", query='up{job="lakefeed"} == 1'))
        yield base


def ask(base: str, kind: str, **words: str) -> Any:
    """The data of one call of Prometheus' API."""
    url = f"{base}/api/v1/{kind}?{urllib.parse.urlencode(words)}"
    answer = until(kind, lambda: json.loads(fetch(url)))
    assert answer["status"] == "success", answer
    return answer["data"].get("result", answer["data"])


def test_what_the_daemon_exposes_is_well_formed(daemon: str) -> None:
    promtool = tool("promtool", "Debian prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=fetch(f"http://{daemon}/metrics"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_label_that_rules_match_on_arrives(prometheus: str) -> None:
    """A label named as one of Prometheus' own (`job`) would arrive as `exported_job`."""
    query = "lakefeed_compactor_last_success_timestamp_seconds"
    found = until("a success", lambda: ask(prometheus, "query", query=query))
    labels = {name for series in found for name in series["metric"]}
    assert {"lake", "task"} <= labels
    assert not [name for name in labels if name.startswith("exported_")]


def test_prometheus_evaluates_every_rule(prometheus: str) -> None:
    def evaluated() -> list[dict[str, Any]] | None:
        groups = ask(prometheus, "rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = until("the first evaluation", evaluated)
    assert len(rules) >= 18
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    # A healthy young lake rings no bell.
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_prometheus_answers_every_query_of_the_dashboard(prometheus: str) -> None:
    answered = 0
    for where, expr in expressions():
        answered += bool(ask(prometheus, "query", query=expr)) and "lakefeed_compactor" in expr
        assert where
    assert answered >= 5
