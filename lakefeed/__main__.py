"""`python -m lakefeed` is the `lakefeed` command; so is this file, wherever it is run from."""

from __future__ import annotations

import os
import sys

if not __package__:
    # Run as a file: what lies in its directory are parts of lakefeed, not modules for everybody.
    is_safe = sys.flags.isolated or (sys.version_info >= (3, 11) and sys.flags.safe_path)
    if not is_safe:
        del sys.path[0]
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if home not in sys.path:
        sys.path.insert(0, home)

from lakefeed.cli import main

if __name__ == "__main__":
    main()
