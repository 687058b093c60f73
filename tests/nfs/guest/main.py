"""Run one guest program inside User-Mode Linux and leave its answer in a folder of the host.

The program is a Python file with `main(world, *args)`; what it returns (plain JSON) becomes
`result.json`, an exception becomes the same file with a traceback. Process 1 is a shell script,
so this process may fail in any way without the kernel panicking. Keeps no promise itself: it
only carries questions in and facts out.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from world import Settings, World

HOST = Path("/run/host")


def answer(config: dict[str, Any]) -> dict[str, Any]:
    """Return the program's value and the seconds it took, or the traceback that ended it."""
    started = time.monotonic()
    up_seconds = 0.0
    try:
        program = importlib.import_module(config["program"])
        with World.start(Settings(**config["settings"])) as world:
            up_seconds = time.monotonic() - started
            (HOST / "running").touch()
            value = program.main(world, *config["args"])
        failure = None
    except BaseException:
        value, failure = None, traceback.format_exc()
    seconds = time.monotonic() - started
    return {"value": value, "failure": failure, "up_seconds": up_seconds, "seconds": seconds}


def main() -> None:
    config = json.loads((HOST / "config.json").read_text())
    # Front to back: helpers beside this file, the program's folder, the project itself.
    sys.path[1:1] = config["path"]
    (HOST / "result.json").write_text(json.dumps(answer(config)))


if __name__ == "__main__":
    main()
