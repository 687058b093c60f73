"""Leases: who does background work, so that others need not do it at the same time.

A lease only saves work. Nothing is safe because somebody holds one; the commit is the fence (but
for a repair of the log, which no commit can fence, and which lasts a few calls). Still it should
rarely be held twice, so it is taken by the one call that a volume does atomically:

1. `leases/<name>.json` says who holds it, with which *token*, until when by the server's clock.
2. It ran out: link `leases/<name>.<token + 1>.json`. Whoever links it is the next holder; nobody
   else can take that token. Then `leases/<name>.json` is replaced, the claims before are removed.
3. Holding on is replacing `leases/<name>.json` with a later time, as long as nobody claimed a
   higher token. Giving up is replacing it with time 0.

Tokens only grow: what was done under an older one can be told from what came later. Times are the
server's, so the clocks of clients do not matter. Where the entry is damaged, the claim says who
holds the lease; a damaged claim is nobody's. The next holder writes both anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from lakefeed.errors import Conflict, Corrupt, NotFound
from lakefeed.format import envelope
from lakefeed.lake import layout
from lakefeed.lake.placing import place_new, place_over
from lakefeed.lake.refs import expiry_ns
from lakefeed.volume.base import Volume, read_file

# Each round means that a holder took the lease and let it run out, or gave it up, while we looked.
ROUNDS_MAX = 20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """A right until `expires_ns` (file server's clock); `token` grows from holder to holder."""

    name: str
    holder: str
    token: int
    expires_ns: int


class Leases:
    """The leases of one lake. `server_time_ns` asks the file server what time it is."""

    def __init__(self, volume: Volume, server_time_ns: Callable[[], int]) -> None:
        self._volume = volume
        self._server_time_ns = server_time_ns

    def read(self, name: str) -> Lease | None:
        """Return who holds or held a lease last, None if nobody ever did."""
        with suppress(NotFound):
            self._volume.refresh(layout.LEASES)
        try:
            newest = self._read(name, layout.lease_path(name))
        except Corrupt as error:
            _logger.warning("a damaged lease is left to its claim: %s", error)
            newest = self._claimed(name, max(self._tokens(name), default=0))
        # A holder that died between its claim and its entry left only the claim.
        while True:
            later = self._claimed(name, newest.token + 1 if newest is not None else 1)
            if later is None:
                return newest
            newest = later

    def _tokens(self, name: str) -> list[int]:
        """Return the tokens of a lease that are claimed."""
        stems = [layout.parse_json(entry.name) for entry in self._volume.list(layout.LEASES)]
        claims = [stem.partition(".") for stem in stems if stem is not None]
        return [int(token) for stem, _, token in claims if stem == name and token.isdecimal()]

    def _claimed(self, name: str, token: int) -> Lease | None:
        """Return the lease as it was claimed with a token, None if it was not."""
        path = layout.claim_path(name, token)
        try:
            return self._read(name, path)
        except Corrupt as error:
            _logger.warning("a damaged claim of a lease is nobody's: %s", error)
            return Lease(name, "", token, 0)

    def _read(self, name: str, path: str) -> Lease | None:
        try:
            fields = envelope.unseal(read_file(self._volume, path), "lease", path)
        except NotFound:
            return None
        return Lease(name, fields.text("holder"), fields.number("token"),
                     fields.number("expires_ns"))  # fmt: skip

    def names(self) -> list[str]:
        """Return the names of the leases that anybody ever had, sorted."""
        try:
            self._volume.refresh(layout.LEASES)
        except NotFound:
            return []  # a copy that leaves out what is empty
        stems = [layout.parse_json(entry.name) for entry in self._volume.list(layout.LEASES)]
        return sorted({stem.partition(".")[0] for stem in stems if stem is not None})

    def acquire(self, name: str, holder: str, lifetime_seconds: float) -> Lease:
        """Return the lease, or raise Conflict naming who holds it; the holder gets it again."""
        for _ in range(ROUNDS_MAX):
            current = self.read(name)
            now_ns = self._server_time_ns()
            if current is not None and now_ns < current.expires_ns:
                if current.holder == holder:
                    return self.renew(current, lifetime_seconds)
                left_seconds = (current.expires_ns - now_ns) / 1e9
                raise Conflict(f"lease {name} of {self._volume.name}", expected="nobody",
                               found=f"{current.holder} has it",
                               hint=f"wait; it runs out in {left_seconds:.0f} s")  # fmt: skip
            token = current.token + 1 if current is not None else 1
            lease = Lease(name, holder, token, expiry_ns(now_ns, lifetime_seconds))
            if self._claim(lease):
                return lease
        raise Conflict(f"lease {name} of {self._volume.name}", expected="to win one claim",
                       found=f"{ROUNDS_MAX} others were faster", hint="repeat")  # fmt: skip

    def _claim(self, lease: Lease) -> bool:
        """Try to be the one who has this token."""
        self._volume.make_directory(layout.LEASES)
        try:
            place_new(self._volume, _sealed(lease), layout.claim_path(lease.name, lease.token))
        except Conflict:
            return False
        self._write(lease)
        # The claim before, and those of holders that died before they had removed one.
        for token in self._tokens(lease.name):
            if token < lease.token:
                with suppress(NotFound):
                    self._volume.unlink(layout.claim_path(lease.name, token))
        return True

    def renew(self, lease: Lease, lifetime_seconds: float) -> Lease:
        """Prolong a lease and return it; Conflict when somebody else has claimed it since."""
        newest = self.read(lease.name)
        # A late writer may have put an older entry over ours; only a higher token counts.
        if newest is not None and newest.token >= lease.token and not _same(newest, lease):
            raise Conflict(f"lease {lease.name} of {self._volume.name}",
                           expected=f"token {lease.token} of {lease.holder}",
                           found=f"token {newest.token} of {newest.holder}")  # fmt: skip
        expires_ns = expiry_ns(self._server_time_ns(), lifetime_seconds)
        renewed = replace(lease, expires_ns=expires_ns)
        self._write(renewed)
        return renewed

    def release(self, lease: Lease) -> None:
        """Give a lease up, so that the next one need not wait; one that is lost already is fine."""
        newest = self.read(lease.name)
        if newest is not None and _same(newest, lease):
            self._write(replace(lease, expires_ns=0))

    def _write(self, lease: Lease) -> None:
        place_over(self._volume, _sealed(lease), layout.lease_path(lease.name))
        self._volume.sync_directory(layout.LEASES)


def _same(one: Lease, other: Lease) -> bool:
    return (one.token, one.holder) == (other.token, other.holder)


def _sealed(lease: Lease) -> bytes:
    envelope.check_text(f"holder of lease {lease.name}", lease.holder)
    return envelope.seal({"type": "lease", "holder": lease.holder, "token": lease.token,
                          "expires_ns": lease.expires_ns})  # fmt: skip
