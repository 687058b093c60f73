"""Starts a program whose ptrace knows no extended registers: `registers.py PROGRAM ARG…`.

User-Mode Linux 6.1 (Debian 12) has room for the registers of AVX-512, and a host whose processor
also has tiles (AMX) takes them only all at once: the guest dies as it starts. Told that there are
none, it saves those of SSE, which is enough for programs that use no others (`guest/init.sh` asks
them).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_AUDIT_ARCH_X86_64, _PTRACE = 0xC000003E, 101
_GETREGSET, _SETREGSET, _NT_X86_XSTATE = 0x4204, 0x4205, 0x202
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
# Of struct seccomp_data: the call, the architecture, the low halves of the arguments.
_NR, _ARCH, _REQUEST, _REGISTERS = 0, 4, 16, 32


def _filter() -> bytes:
    """Return the program for the kernel: instruction, jumps if true and if false, operand."""
    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 0, 7, _AUDIT_ARCH_X86_64),
        (_LOAD, 0, 0, _NR),
        (_EQUAL, 0, 5, _PTRACE),
        (_LOAD, 0, 0, _REQUEST),
        (_EQUAL, 1, 0, _GETREGSET),
        (_EQUAL, 0, 2, _SETREGSET),
        (_LOAD, 0, 0, _REGISTERS),
        (_EQUAL, 1, 0, _NT_X86_XSTATE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EIO),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main() -> None:
    """Leave those registers out and become the program."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = _filter()
    program = _Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
