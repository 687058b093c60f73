"""The zone that times of day are meant in is TZ, and one that this machine knows.

The C library takes any other for UTC and says nothing: what is meant for the night then runs while
people work.
"""

from __future__ import annotations

import os
import re
import zoneinfo

from lakefeed.errors import Invalid

# A zone that is spelled out, such as CET-1CEST, needs no file, and neither do these.
_SPELLED = re.compile(r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]+>)[+-]?\d|(?:UTC|GMT)$")


def check_zone() -> None:
    """Raise Invalid where the environment's TZ is a zone that the C library does not find."""
    zone = os.environ.get("TZ", "")
    name, directory = zone.removeprefix(":"), os.environ.get("TZDIR")
    places = (directory,) if directory else zoneinfo.TZPATH
    if (
        not name
        or _SPELLED.match(name)
        or any(os.path.isfile(os.path.join(place, name)) for place in places)
    ):
        return
    raise Invalid("window: TZ", expected="a time zone such as Europe/Berlin", found=repr(zone),
                  hint=f"none is in {', '.join(places)}; is tzdata installed?")  # fmt: skip
