"""What the tests of compaction share: a lake worth compacting, and when to interfere."""

from __future__ import annotations

from collections.abc import Callable

from lakefeed.lake.check import check
from lakefeed.lake.garbage import Retention
from lakefeed.lake.lake import Lake
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import new_lake, write

AT_ONCE = Retention(keep_seconds=0, grace_seconds=0)
FILES = {f"{n}": bytes([n]) * 100 for n in range(6)}
STAGES = ("copying", "index")


def filled(volume: MemoryVolume | None = None) -> MemoryVolume:
    """Return a volume with a lake of three small packs, of which two are merged."""
    volume = volume or MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"0": FILES["0"], "1": FILES["1"]})
        write(lake, {"2": FILES["2"], "3": FILES["3"]})
        lake.merge_index()
        write(lake, {"4": FILES["4"], "5": FILES["5"]})
    return volume


def sound(lake: Lake) -> None:
    """Check everything, and that no file lies about that no commit names."""
    with Lake.open(lake.volume) as fresh:
        report = check(fresh, deep=True)
    assert report.clean, report.findings
    assert report.counters.orphans == 0


def during(stage: str, act: Callable[[], object]) -> Callable[[str, int, int], None]:
    """Return a progress callback that acts once, when a stage is first heard of."""
    done: list[str] = []

    def progress(name: str, at: int, total: int) -> None:
        if name == stage and not done:
            done.append(name)
            act()

    return progress
