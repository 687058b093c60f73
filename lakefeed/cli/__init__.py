"""The command line: `app` is the command tree, `main` what the `lakefeed` script calls."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

try:
    from lakefeed.cli.app import app, main
except KeyboardInterrupt:  # nobody else catches it in the half second that this may take
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    sys.exit(130)  # `EXIT_INTERRUPTED`, which may not be there yet

__all__ = ["app", "main"]
