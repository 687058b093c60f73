"""The command line: `app` is the command tree, `main` what the `lakefeed` script calls."""

from __future__ import annotations

from lakefeed.cli.app import app, main

__all__ = ["app", "main"]
