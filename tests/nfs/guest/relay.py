"""A TCP relay between an NFS client and nfsd that swallows the replies of chosen operations.

The call goes through, so the server applies it; its reply is dropped and the connection closed,
so the client retransmits over a new one. The relay then connects to nfsd from a new port, which
makes the v3 duplicate request cache (keyed by xid, checksum, address *and port*) miss: the
server runs the operation a second time, as it does when a real network fails over. On v4.1 and
later the session's slot replays the reply whatever the connection, until the server restarts;
`hold` keeps the client away for long enough to restart it.

Only the start of a call is decoded: the procedure on v3, the first operation that changes a
directory or opens a file on v4.x. The relay is a process of its own, driven over a pipe.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

NFS_PROGRAM = 100003
V3_PROCEDURES = {2: "SETATTR", 7: "WRITE", 8: "CREATE", 9: "MKDIR"}
V3_PROCEDURES |= {12: "REMOVE", 13: "RMDIR", 14: "RENAME", 15: "LINK", 21: "COMMIT"}
V4_OPERATIONS = {6: "CREATE", 11: "LINK", 18: "OPEN", 28: "REMOVE", 29: "RENAME"}
V4_OPERATIONS |= {34: "SETATTR", 38: "WRITE", 5: "COMMIT"}
V4_PUTFH, V4_SAVEFH, V4_GETATTR, V4_SEQUENCE = 22, 32, 9, 53
V4_COMPOUND = 1


class Xdr:
    """A cursor over XDR words."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def word(self) -> int:
        self.at += 4
        return int(struct.unpack_from(">I", self.data, self.at - 4)[0])

    def skip(self, size_bytes: int) -> None:
        self.at += (size_bytes + 3) & ~3

    def opaque(self) -> None:
        self.skip(self.word())


def operation(call: bytes) -> str | None:
    """Return the name of the operation a call asks for, None when the relay does not care."""
    xdr = Xdr(call)
    xdr.skip(12)  # xid, message type, RPC version
    program, version, procedure = xdr.word(), xdr.word(), xdr.word()
    if program != NFS_PROGRAM:
        return None
    if version == 3:
        return V3_PROCEDURES.get(procedure)
    if procedure != V4_COMPOUND:
        return None
    for _ in ("credential", "verifier"):
        xdr.word()
        xdr.opaque()
    xdr.opaque()  # tag
    xdr.word()  # minor version
    for _ in range(xdr.word()):
        number = xdr.word()
        if number in V4_OPERATIONS:
            return V4_OPERATIONS[number]
        if number == V4_SEQUENCE:
            xdr.skip(32)
        elif number == V4_PUTFH:
            xdr.opaque()
        elif number == V4_GETATTR:
            xdr.skip(4 * xdr.word())
        elif number != V4_SAVEFH:
            return None
    return None


def record(stream: socket.socket) -> bytes | None:
    """Return the next RPC record with its marks as they came, None at the end of the stream."""
    raw = b""
    while True:
        mark = _exactly(stream, 4)
        if mark is None:
            return None
        length = struct.unpack(">I", mark)[0]
        body = _exactly(stream, length & 0x7FFFFFFF)
        if body is None:
            return None
        raw += mark + body
        if length & 0x80000000:
            return raw


def _exactly(stream: socket.socket, size_bytes: int) -> bytes | None:
    data = bytearray()
    while len(data) < size_bytes:
        try:
            piece = stream.recv(size_bytes - len(data))
        except OSError:
            return None
        if not piece:
            return None
        data += piece
    return bytes(data)


@dataclass
class _Relay:
    """The relay process: one listener, two pumps for each connection, rules under one lock."""

    port: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    to_drop: Counter[str] = field(default_factory=Counter)
    hold: bool = False
    open_gate: threading.Event = field(default_factory=threading.Event)
    calls: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def serve(self, control: socket.socket) -> None:
        """Relay until the control pipe closes."""
        listener = socket.create_server(("", self.port), reuse_port=True)
        self.open_gate.set()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        with control.makefile("rw") as lines:
            for line in lines:
                lines.write(json.dumps(self._obey(**json.loads(line))) + "\n")
                lines.flush()

    def _obey(self, verb: str, **words: Any) -> Any:
        with self.lock:
            if verb == "drop":
                self.to_drop[words["name"]] = words["count"]
                self.hold = words["hold"]
            elif verb == "resume":
                self.open_gate.set()
            return {
                "calls": self.calls,
                "dropped": self.dropped,
                "held": not self.open_gate.is_set(),
            }

    def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            self.open_gate.wait()
            try:
                server = socket.create_connection(("127.0.0.1", 2049))
            except OSError:
                client.close()  # nfsd is down: the client tries again
                continue
            doomed: set[int] = set()
            for pump in (self._calls, self._replies):
                threading.Thread(target=pump, args=(client, server, doomed), daemon=True).start()

    def _calls(self, client: socket.socket, server: socket.socket, doomed: set[int]) -> None:
        while (raw := record(client)) is not None:
            xid, kind = struct.unpack_from(">II", raw, 4)
            name = operation(raw[4:]) if kind == 0 else None
            if name is not None:
                with self.lock:
                    self.calls[name] += 1
                    if self.to_drop[name] > 0:
                        self.to_drop[name] -= 1
                        doomed.add(xid)
                        self.dropped[name] += 1
            if not _send(server, raw):
                break
        _hang_up(client, server)

    def _replies(self, client: socket.socket, server: socket.socket, doomed: set[int]) -> None:
        while (raw := record(server)) is not None:
            xid, kind = struct.unpack_from(">II", raw, 4)
            if kind == 1 and xid in doomed:
                with self.lock:
                    if self.hold:
                        self.open_gate.clear()
                break
            if not _send(client, raw):
                break
        _hang_up(client, server)


def _send(stream: socket.socket, raw: bytes) -> bool:
    try:
        stream.sendall(raw)
    except OSError:
        return False
    return True


def _hang_up(*streams: socket.socket) -> None:
    for stream in streams:
        try:
            stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other pump was first
        stream.close()


@dataclass
class Relay:
    """The handle of a relay process; mount a client with `port=relay.port` to pass through it."""

    port: int
    pid: int
    control: socket.socket

    @classmethod
    def start(cls, port: int = 2050) -> Relay:
        """Fork the relay. The caller must still be single-threaded."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _Relay(port).serve(theirs)
            os._exit(0)
        theirs.close()
        return cls(port, pid, ours)

    def drop(self, name: str, count: int = 1, *, hold: bool = False) -> None:
        """Swallow the replies of the next `count` calls of that operation.

        With `hold` the client is kept away after that until `resume`.
        """
        self._ask(verb="drop", name=name, count=count, hold=hold)

    def resume(self) -> None:
        self._ask(verb="resume")

    def seen(self) -> dict[str, Any]:
        """Return calls and dropped replies, by operation, and whether the client is held."""
        return self._ask(verb="seen")

    def _ask(self, **words: Any) -> dict[str, Any]:
        self.control.sendall(json.dumps(words).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            piece = self.control.recv(1 << 16)
            if not piece:
                raise RuntimeError("the relay is gone")
            answer += piece
        return dict(json.loads(answer))
