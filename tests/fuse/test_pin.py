"""The pin of a mount that shows one snapshot for ever."""

from __future__ import annotations

import pytest

from lakefeed import Lake
from lakefeed.errors import VolumeFailed
from lakefeed.volume.memory import MemoryVolume

pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")

from lakefeed.adapters.fuse import session  # noqa: E402
from lakefeed.adapters.fuse.session import Mount, MountOptions  # noqa: E402


def test_it_is_renewed_while_the_mount_lives_though_a_renewal_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [10**18]
    lake = Lake.create(MemoryVolume(clock_ns=lambda: now[0]))
    with lake.writer() as writer:
        writer.put("a", b"1")
    renew, failures = lake.renew, [VolumeFailed("pin", found="a volume that is away")]

    def failing_once(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return renew(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lake, "renew", failing_once)
    mount = Mount(lake, "/nowhere", MountOptions(at=1))

    async def run() -> None:
        mount._pin = mount._pinned(1)
        (before,) = lake.refs.pins()
        monkeypatch.setattr(session, "PIN_SECONDS", 0.04)  # no time passes on the volume
        now[0] = before.expires_ns - 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount._renew_pin)
            with trio.fail_after(60):
                while lake.refs.pins() == [before]:
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        (after,) = lake.refs.pins()
        assert after.expires_ns > before.expires_ns and not failures

    trio.run(run)
