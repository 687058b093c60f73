"""`python -m lakefeed` is the `lakefeed` command; so is this file, wherever it is run from."""

from __future__ import annotations

import os
import sys

if not __package__:
    # Run as a file: what lies in its directory are parts of lakefeed, not modules for everybody.
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:1] = [] if home in sys.path[1:] else [home]

from lakefeed.cli import main

if __name__ == "__main__":
    main()
