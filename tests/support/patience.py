"""How long tests wait for another process.

This only bounds what hangs. A `lakefeed` command that takes a second on an idle machine was seen to
take ninety on one that had twenty times as much to do as it has processors.
"""

from __future__ import annotations

PATIENCE_SECONDS = 300.0
