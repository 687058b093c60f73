"""Small JSON files that know whether they are whole.

    {"lakefeed":1,"crc32c":"0a1b2c3d","bytes":123,"body":{…}}

The checksum covers the version and the exact bytes of the body, so the file is plain JSON for any
tool and a torn, truncated or altered one is Corrupt here. An intact file of a version that this
program does not know is Invalid: upgrading helps, repairing would destroy. Keeps I7.
"""

from __future__ import annotations

import json
import re
from typing import Any

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format.checksum import crc32c

VERSION = 1
_HEAD = re.compile(
    rb'\{"lakefeed":(0|[1-9]\d{0,8}),"crc32c":"([0-9a-f]{8})","bytes":([1-9]\d{0,9}),"body":'
)
_FOOT = b"}\n"


def seal(body: dict[str, Any], version: int = VERSION) -> bytes:
    """Return the file that holds `body`."""
    try:
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = repr(error.object[error.start : error.end])
        raise Invalid(f"{body.get('type')}", expected="valid UTF-8", found=found) from error
    checksum = crc32c(data, crc32c(b"%d:" % version))
    head = b'{"lakefeed":%d,"crc32c":"%08x","bytes":%d,"body":' % (version, checksum, len(data))
    return head + data + _FOOT


def check_text(subject: str, value: object) -> None:
    """Refuse what a field of text cannot be: sealed, nobody could read the file again."""
    if not isinstance(value, str):
        raise Invalid(subject, expected="text", found=repr(value))


def unseal(data: bytes, kind: str, subject: str) -> Fields:
    """Return the verified body of a file whose `type` is `kind`."""
    head = _HEAD.match(data)
    if head is None:
        raise Corrupt(subject, expected="a lakefeed envelope", found=repr(data[:40]))
    body = data[head.end() : -len(_FOOT)]
    version = int(head[1])
    found = crc32c(body, crc32c(b"%d:" % version))
    if int(head[2], 16) != found or int(head[3]) != len(body) or not data.endswith(_FOOT):
        raise Corrupt(
            subject,
            expected=f"{int(head[3])} bytes with checksum {head[2].decode()}",
            found=f"{len(body)} bytes with checksum {found:08x}",
            hint='run "lakefeed fsck"',
        )
    if version != VERSION:
        expected = f"version {VERSION}"
        raise Invalid(subject, expected=expected, found=version, hint="upgrade lakefeed")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Corrupt(subject, expected="JSON", found=str(error)) from error
    if not isinstance(parsed, dict):
        raise Corrupt(subject, expected="an object", found=type(parsed).__name__)
    fields = Fields(parsed, subject)
    if fields.text("type") != kind:
        raise Corrupt(subject, expected=f"a {kind}", found=fields.text("type"))
    return fields


ID_LENGTH = 32
_ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")


def is_id(text: object) -> bool:
    """Tell whether `text` has the form of the ids that become file names."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


class Fields:
    """A JSON object read field by field; a missing or mistyped field is Corrupt."""

    def __init__(self, values: dict[str, Any], subject: str) -> None:
        self._values = values
        self._subject = subject

    def _get(self, name: str, kind: type | tuple[type, ...]) -> Any:
        value = self._values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Corrupt(f"{self._subject}, field {name}", expected=kind, found=repr(value)[:80])
        return value

    def text(self, name: str) -> str:
        """Return a string."""
        return str(self._get(name, str))

    def number(self, name: str) -> int:
        """Return an integer of at least zero that fits in 63 bits."""
        value = int(self._get(name, int))
        if not 0 <= value < 1 << 63:
            raise Corrupt(f"{self._subject}, field {name}", expected="0 to 2^63 - 1", found=value)
        return value

    def word(self, name: str) -> int:
        """Return an integer that fits in 64 bits, with a sign or without."""
        value = int(self._get(name, int))
        if not -(1 << 63) <= value < 1 << 64:
            raise Corrupt(f"{self._subject}, field {name}", expected="64 bits", found=value)
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean, written as 0 or 1."""
        value = self.number(name)
        if value > 1:
            raise Corrupt(f"{self._subject}, field {name}", expected="0 or 1", found=value)
        return value == 1

    def optional_text(self, name: str) -> str | None:
        """Return a string, or None where the field is null or missing."""
        return None if self._values.get(name) is None else self.text(name)

    def id(self, name: str) -> str:
        """Return an id: 32 lower-case hexadecimal digits."""
        return self._checked_id(self._values.get(name), name)

    def ids(self, name: str) -> tuple[str, ...]:
        """Return a list of ids."""
        return tuple(self._checked_id(value, name) for value in self._get(name, list))

    def _checked_id(self, value: object, name: str) -> str:
        if not is_id(value):
            found = repr(value)[:80]
            raise Corrupt(f"{self._subject}, field {name}", expected="an id", found=found)
        return str(value)

    def optional_number(self, name: str) -> int | None:
        """Return an integer of at least zero, or None where the field is null or missing."""
        return None if self._values.get(name) is None else self.number(name)

    def object(self, name: str) -> Fields:
        """Return an object."""
        return Fields(self._get(name, dict), f"{self._subject}, {name}")

    def objects(self, name: str) -> list[Fields]:
        """Return a list of objects."""
        values = self._get(name, list)
        if not all(isinstance(value, dict) for value in values):
            raise Corrupt(f"{self._subject}, field {name}", expected="objects", found="others")
        return [Fields(value, f"{self._subject}, {name}") for value in values]

    def texts(self, name: str) -> dict[str, str]:
        """Return an object whose values are all strings."""
        values = self._get(name, dict)
        inner = Fields(values, f"{self._subject}, {name}")
        return {key: inner.text(key) for key in values}

    def numbers(self, name: str) -> dict[str, int]:
        """Return an object from ids to integers of at least zero."""
        values = self._get(name, dict)
        inner = Fields(values, f"{self._subject}, {name}")
        return {self._checked_id(key, name): inner.number(key) for key in values}
