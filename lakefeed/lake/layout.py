"""Every file name of a lake is made here, and parsed here.

    lake.json                    what this directory is; written once
    log/<20 digits>.json         numbered commits, published by link(2)
    log/<20 digits>.checkpoint   the state after that commit
    log/HEAD                     a hint where to start looking; may lag
    packs/<2 hex>/<id>.pack      payloads with their own index
    index/<id>.parquet           segments of the merged offset index
    refs/<tag>.json              tags
    pins/<id>.json               snapshots kept for a reader
    leases/<name>.json           who does background work
    leases/<name>.<20 digits>.json   the claim that gave it the right
    scrub/state.json             how far the verification of payloads has come
    scrub/<pack>.json            damaged payloads of one pack
    quarantine/<id>/             what a repair took out of the way
    tmp/<id>.json                commits about to be published

Ids are 32 hexadecimal digits, so no name from a volume can lead outside the lake.
"""

from __future__ import annotations

import os
import re

from lakefeed.errors import Invalid
from lakefeed.given import check

SUPERBLOCK = "lake.json"
LOG = "log"
HEAD_HINT = "log/HEAD"
PACKS = "packs"
INDEX = "index"
REFS = "refs"
PINS = "pins"
LEASES = "leases"
TMP = "tmp"
SCRUB = "scrub"
SCRUB_STATE = "scrub/state.json"
QUARANTINE = "quarantine"
DIRECTORIES = (LOG, PACKS, INDEX, REFS, PINS, LEASES, TMP)
# Made when they are first needed.
LATER_DIRECTORIES = (SCRUB, QUARANTINE)

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LEASE = re.compile(r"[a-z0-9-]{1,64}")
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint")
_PACK = re.compile(r"([0-9a-f]{32})\.pack")
_SEGMENT = re.compile(r"([0-9a-f]{32})\.parquet")
_JSON = re.compile(r"(.+)\.json")


def new_id() -> str:
    """Return a name that nobody has used or will use."""
    return os.urandom(16).hex()


def commit_path(number: int) -> str:
    """Return where commit `number` is published."""
    return f"{LOG}/{number:020d}.json"


def checkpoint_path(number: int) -> str:
    """Return where the state after commit `number` may be found."""
    return f"{LOG}/{number:020d}.checkpoint"


def pack_directory(pack_id: str) -> str:
    """Return the directory of a pack; 256 of them keep each small."""
    return f"{PACKS}/{pack_id[:2]}"


def pack_path(pack_id: str) -> str:
    """Return where a pack lies."""
    return f"{PACKS}/{pack_id[:2]}/{pack_id}.pack"


def is_pack(path: str) -> bool:
    """Tell whether a volume's path is that of a pack."""
    return parse_pack(path.rpartition("/")[2]) is not None


def segment_path(segment_id: str) -> str:
    """Return where a segment lies."""
    return f"{INDEX}/{segment_id}.parquet"


def ref_path(tag: str) -> str:
    """Return where a tag is kept; Invalid for a name that is no tag."""
    return f"{REFS}/{check_tag(tag)}.json"


def pin_path(pin_id: str) -> str:
    """Return where a pin is kept."""
    return f"{PINS}/{pin_id}.json"


def lease_path(name: str) -> str:
    """Return where it is kept who holds a lease; Invalid for a name that is none."""
    if _LEASE.fullmatch(name) is None:
        raise Invalid(f"lease {name!r}", expected="1 to 64 lower-case letters, digits or '-'")
    return f"{LEASES}/{name}.json"


def claim_path(name: str, token: int) -> str:
    """Return the name that gives a lease to whoever links it first."""
    return lease_path(name).removesuffix(".json") + f".{token:020d}.json"


def findings_path(pack_id: str) -> str:
    """Return where the damaged payloads of a pack are noted."""
    return f"{SCRUB}/{pack_id}.json"


def tmp_path(unique: str) -> str:
    """Return where a file is prepared before it is published."""
    return f"{TMP}/{unique}.json"


def is_tag(tag: str) -> bool:
    """Tell whether `tag` may name a snapshot."""
    return _TAG.fullmatch(tag) is not None and not tag.isdecimal()


def check_tag(tag: str) -> str:
    """Return `tag` if it may name a snapshot, else raise Invalid."""
    check("tag", tag, str)
    if not is_tag(tag):
        raise Invalid(
            f"tag {tag!r}",
            expected="1 to 128 letters, digits, '.', '_' or '-', not only digits",
        )
    return tag


def id_of(path: str) -> str:
    """Return the id in the path of a pack or a segment."""
    return path.rpartition("/")[2].partition(".")[0]


def parse_commit(name: str) -> int | None:
    """Return the number in a commit's file name, or None if it is another file."""
    match = _COMMIT.fullmatch(name)
    return int(match[1]) if match else None


def parse_checkpoint(name: str) -> int | None:
    """Return the number in a checkpoint's file name, or None if it is another file."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match[1]) if match else None


def parse_pack(name: str) -> str | None:
    """Return the id in a pack's file name, or None if it is another file."""
    match = _PACK.fullmatch(name)
    return match[1] if match else None


def parse_segment(name: str) -> str | None:
    """Return the id in a segment's file name, or None if it is another file."""
    match = _SEGMENT.fullmatch(name)
    return match[1] if match else None


def parse_json(name: str) -> str | None:
    """Return the stem of a `.json` file (a tag or a pin's id), or None if it is another file."""
    match = _JSON.fullmatch(name)
    return match[1] if match else None
