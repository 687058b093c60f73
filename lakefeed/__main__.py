"""`python -m lakefeed` is the `lakefeed` command."""

from __future__ import annotations

from lakefeed.cli import main

if __name__ == "__main__":
    main()
