"""Files and directories that do not answer, for a process that is started with `silenced`.

Python imports `sitecustomize` when it starts; that of ours lets the calls that open or look at one
of these wait for ever, as they do where a server hangs.
"""

from __future__ import annotations

import os
from pathlib import Path

_SILENT = """
import functools, os, threading

SILENT = frozenset(os.environ["SILENT"].split("\\n"))

def asked(call, path, *words, **options):
    if path in SILENT:
        threading.Event().wait()
    return call(path, *words, **options)

# No functions: as attributes of a class, where Python 3.10 has them, these would be methods.
os.open, os.stat = functools.partial(asked, os.open), functools.partial(asked, os.stat)
"""


def silenced(scratch: Path, *paths: Path) -> dict[str, str]:
    """Return what has to be in a process's environment; writes a file into `scratch`."""
    scratch.mkdir(exist_ok=True)
    (scratch / "sitecustomize.py").write_text(_SILENT)
    before = os.environ.get("PYTHONPATH")
    python_path = os.pathsep.join([str(scratch), *([before] if before else [])])
    return {"PYTHONPATH": python_path, "SILENT": "\n".join(map(str, paths))}
