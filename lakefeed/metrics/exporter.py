"""The page that Prometheus reads, served from any process by a thread of its own.

`serve(port)` shows this process's metrics. Where `directory` names prometheus_client's directory
for many processes (the one in PROMETHEUS_MULTIPROC_DIR), it shows the sums of all processes that
write there, dead ones included, whichever of them serves.

`metered(options, port)` does all of it for feeds in one line, and is what `metrics_port=` of the
loaders stands for.
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from wsgiref.simple_server import WSGIServer

from lakefeed.closing import Closing
from lakefeed.errors import Invalid, from_os_error, needing
from lakefeed.feed.feed import FeedOptions
from lakefeed.forking import new_lock
from lakefeed.given import check

with needing("metrics", __name__):
    from prometheus_client import (
        CollectorRegistry,
        Metric,
        generate_latest,
        start_http_server,
        values,
    )
    from prometheus_client.multiprocess import MultiProcessCollector

    from lakefeed.metrics.loader import REGISTRY, loader_metrics

# Any host may ask for metrics, as Prometheus in a cluster does.
_EVERYWHERE = "0.0.0.0"
# A scrape in progress ends within this, or is cut off.
_STOP_SECONDS = 5.0


class Exporter(Closing):
    """A page that is being served; `close` ends it. Works twice."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread
        self._stop: Callable[[], None] | None = server.shutdown

    @property
    def port(self) -> int:
        """Where it is served; useful when port 0 asked for any."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()
            self._server.server_close()
            self._thread.join(_STOP_SECONDS)


def serve(
    port: int,
    host: str = "127.0.0.1",
    directory: str | os.PathLike[str] | None = None,
    registry: CollectorRegistry = REGISTRY,
) -> Exporter:
    """Serve metrics; VolumeFailed (with the errno) when the port is taken."""
    shown = registry if directory is None else shared_registry(directory)
    try:
        server, thread = start_http_server(port, host, shown)
    except OSError as error:
        raise from_os_error(error, f"metrics on {host}:{port}") from error
    return Exporter(server, thread)


def shared_registry(directory: str | os.PathLike[str]) -> CollectorRegistry:
    """Return a registry that adds up what all processes wrote below a directory."""
    shared = CollectorRegistry()
    _Processes(shared, os.fspath(directory))  # type: ignore[no-untyped-call]
    return shared


class _Processes(MultiProcessCollector):
    """Adds up all processes, but of gauges those that live: prometheus_client would leave out what
    it is told has died, and of worker processes nobody tells it."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all files, for one scrape."""
        files = glob.glob(os.path.join(glob.escape(self._path), "*.db"))
        shown = [file for file in files if not _is_over(os.path.basename(file))]
        metrics: Iterable[Metric] = self.merge(shown, accumulate=True)  # type: ignore[no-untyped-call]
        return metrics


def _is_over(file: str) -> bool:
    """Tell whether a file has gauges of a process that has ended, "gauge_livesum_4711.db"."""
    words = file.removesuffix(".db").split("_")
    if not words[-2].startswith("live"):
        return False
    try:
        os.kill(int(words[-1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # somebody else's, and alive
    return False


def page(registry: CollectorRegistry = REGISTRY) -> str:
    """Return the metrics of a registry as text."""
    text: str = generate_latest(registry).decode()
    return text


_lock = new_lock()  # guards the pages below
_served: dict[int, Exporter] = {}


def metered(options: FeedOptions, metrics_port: int) -> FeedOptions:
    """Return options with which feeds count for Prometheus, and serve the page until the process
    ends.

        with Feed("/mnt/lake", "train/**", metered(FeedOptions(256), metrics_port=9466)) as feed:

    All feeds of a process share one set of metrics and one page for a port. With worker processes
    set PROMETHEUS_MULTIPROC_DIR before the program starts: the page then adds up all of them.
    VolumeFailed when another program has the port, Invalid for an observer besides.
    """
    if options.observer is not None and options.observer is not loader_metrics():
        raise Invalid("metrics_port", expected="no observer beside it", found="one")
    check("metrics_port", metrics_port, int)
    if not 0 < metrics_port < 1 << 16:
        raise Invalid("metrics_port", expected="1 to 65535", found=metrics_port)
    with _lock:
        if metrics_port not in _served:
            shown = _all_processes() or REGISTRY
            _served[metrics_port] = serve(metrics_port, _EVERYWHERE, registry=shown)
    return replace(options, observer=loader_metrics())


def adds_up() -> bool:
    """Tell whether pages add up all processes: PROMETHEUS_MULTIPROC_DIR was set in time."""
    return values.ValueClass is not values.MutexValue


def _all_processes() -> CollectorRegistry | None:
    """Return what adds up all processes, None unless prometheus_client was told to share values."""
    if not adds_up():
        return None
    shared = CollectorRegistry()
    try:
        _Processes(shared)  # type: ignore[no-untyped-call]
    except ValueError:
        return None
    return shared
