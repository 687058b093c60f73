"""Probes and metrics over HTTP, answered from memory: no request ever touches a volume.

/healthz   200 while the event loop runs: restart the process when it does not
/readyz    200 when every lake is open and its lease is held by some replica, else 503 and why
/metrics   Prometheus' text format
/status    everything that is known, as JSON; `lakefeed top URL` reads it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from lakefeed.errors import VolumeFailed, from_os_error
from lakefeed.metrics.compactor import CONTENT_TYPE, CompactorMetrics

# At the end, whoever asks has so long, twice: answers come from memory. Together with what a volume
# that hangs is given (`daemon`) it is less than the 30 seconds after which Kubernetes kills.
END_SECONDS = 1.0

Facts = Callable[[], list[dict[str, Any]]]


class Endpoints:
    """The HTTP server of one daemon; `facts` gives the status of every lake."""

    def __init__(self, name: str, metrics: CompactorMetrics, facts: Facts) -> None:
        self._name = name
        self._metrics = metrics
        self._facts = facts
        self._runner: web.AppRunner | None = None

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and return the address; VolumeFailed when it cannot be had."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._show_metrics),
                web.get("/status", self._status),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=END_SECONDS)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as error:
            await self.close()
            failure = from_os_error(error, f"listen on {host}:{port}")
            raise VolumeFailed(failure.subject, found=failure.found, errno=failure.errno,
                               hint="choose another address with --listen") from error  # fmt: skip
        found = self._runner.addresses[0]
        return str(found[0]), int(found[1])

    async def close(self) -> None:
        """Stop listening. Works twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        problems = [
            f"{lake['path']}: {lake['problem'] or 'not open yet'}"
            for lake in self._facts()
            if not lake["ready"]
        ]
        if problems:
            # A path need not be UTF-8.
            body = "".join(f"{one}\n" for one in problems).encode(errors="backslashreplace")
            return web.Response(status=503, body=body, content_type="text/plain", charset="utf-8")
        return web.Response(text="ready\n")

    async def _show_metrics(self, request: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE}
        return web.Response(body=self._metrics.render(), headers=headers)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"name": self._name, "lakes": self._facts()})
