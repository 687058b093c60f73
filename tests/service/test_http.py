"""The HTTP server of a daemon ends with it, whatever its clients are doing."""

from __future__ import annotations

import asyncio

import pytest

from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service import http
from lakefeed.service.http import Endpoints

# Less than aiohttp gives a client by itself; generous: a busy machine is no bug.
PATIENCE_SECONDS = 50.0


def test_a_client_that_is_being_answered_does_not_keep_it_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def serve() -> None:
        asked = asyncio.Event()

        async def never(endpoints: Endpoints, request: object) -> None:
            asked.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(Endpoints, "_healthz", never)
        endpoints = Endpoints("here", CompactorMetrics(), list)
        reader, writer = await asyncio.open_connection(*await endpoints.open("127.0.0.1", 0))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        await asked.wait()
        await asyncio.wait_for(endpoints.close(), PATIENCE_SECONDS)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    monkeypatch.setattr(http, "END_SECONDS", 0.01)
    asyncio.run(serve())


def test_a_lake_whose_name_is_not_utf_8_is_named_by_who_is_not_ready() -> None:
    async def ask() -> bytes:
        lakes = [{"path": "/mnt/l\udcff", "problem": "", "ready": False}]
        endpoints = Endpoints("here", CompactorMetrics(), lambda: lakes)
        reader, writer = await asyncio.open_connection(*await endpoints.open("127.0.0.1", 0))
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        said = await reader.read()
        writer.close()
        await endpoints.close()
        return said

    said = asyncio.run(ask())
    assert b" 503 " in said.splitlines()[0]
    assert said.endswith(b"/mnt/l\\udcff: not open yet\n")
