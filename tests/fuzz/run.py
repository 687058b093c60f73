"""The target under atheris, for as long as you like: see README.md."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lakefeed"]):
    from tests.fuzz.target import SEEDS, check


def main() -> None:
    """Put the seeds into the corpus (the first argument that is a directory), then fuzz."""
    for argument in sys.argv[1:]:
        corpus = Path(argument)
        if corpus.is_dir():
            for number, seed in enumerate(SEEDS):
                (corpus / f"seed-{number}").write_bytes(bytes([number]) + seed)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
