"""Writers, a mount, a service, imports, maintenance and readers on one lake, in any order.

A seed decides who makes the next volume call; in some seeds calls fail, answers get lost, the
volume is full for a while, actors die at any call, the power is cut, payloads are damaged before or
in the middle of it, the clocks of the server and of all clients are set by hours, and garbage
collection takes the packs of those who are slow to commit.
Whatever happens: the history is one chain (I4), every snapshot is exactly what the commits before
it say, replayed in their order on a dictionary (I1, I5, I7), nothing acknowledged is lost and
nothing refused is there, what arrived in an inbox is in one commit, the last import brings what
others left out, what was moved out is in the other lake, an export and a feed that goes on
elsewhere give what their snapshot shows, no rank of a training sees a short epoch, tagged and
pinned snapshots stay readable under garbage collection until a clock has passed the pin (I3, I6), a
scrub names what is damaged, and a log that is lost is written anew without naming anything that is
not there.

LAKEFEED_SEEDS=1000:3000 goes through these seeds instead of the first few.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.adapters.fsspec.writing import OPERATION
from lakefeed.errors import Corrupt, NotFound
from lakefeed.format.commit import Changes
from lakefeed.lake import check_payloads, copying, layout, opening, reader, scan, together
from lakefeed.lake.check import check
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect, orphans_of
from lakefeed.lake.log import Draft
from lakefeed.lake.repair import rebuild_index, rebuild_log
from lakefeed.transfer import importing
from lakefeed.volume.posix import PosixVolume
from tests.lake.tools import small_groups
from tests.service.tools import waiting
from tests.survival.actors import (
    ACTORS,
    DROPPED,
    acting,
    fill_inbox,
    fill_source,
    import_once,
    take_once,
)
from tests.survival.clocks import clients
from tests.survival.keeping import check_scrubbed
from tests.survival.lakes import audit, raw_files
from tests.survival.oracle import TOKEN, Model, check_same, check_shown, replayed, shown, telling
from tests.survival.stepped import Fate, MortalVolume
from tests.survival.world import Inline, World, world

if find_spec("pyfuse3") and find_spec("trio"):
    from tests.survival.mounted import mount

    ACTORS["mount"] = mount

pytestmark = pytest.mark.slow

FIRST, END = map(int, os.environ.get("LAKEFEED_SEEDS", "0:16").split(":"))
SEEDS_PER_TEST = 4
# An actor makes a few hundred calls.
DEATHS = range(1, 400)
ENDS = range(1, 3000)
# Everything that is not needed goes, and what no commit names.
ALL = Retention(keep_seconds=0.0, grace_seconds=0.0)


def explore(seed: int, home: Path) -> World:
    """Let a seed's actors work, and check everything they leave."""
    here = world(seed, home)
    fill_inbox(here)
    fill_source(here)
    numbers = here.numbers
    here.fault_share = numbers.choice((0.0, 0.0, 0.002, 0.01))
    mortality = numbers.choice((0.0, 0.5))
    # The power is cut while all are at work: what was not synced is gone.
    ends_at = numbers.choice(ENDS) if numbers.random() < 0.3 else None
    if numbers.random() < 0.3:
        start = numbers.choice(ENDS)
        here.full = range(start, start + numbers.choice((10, 100, 1000)))
    actors = [actor for actor in ACTORS if numbers.random() < 0.6]
    for actor in actors:
        dies_at = numbers.choice(DEATHS) if numbers.random() < mortality else None
        fate = Fate(str(seed), here.fault_share, dies_at, ends_at, here.full)
        here.volumes[actor] = MortalVolume(here.volume, here.scheduler, actor, fate)
    with telling(here.told), clients(seed, lambda: here.scheduler.steps):
        here.scheduler.run({actor: partial(acting, here, actor) for actor in actors})
        here.is_cut = ends_at is not None
        if here.is_cut:
            here.volume, here.away = here.volume.power_cut(), here.away.power_cut()
        with Lake.open(here.volume) as lake:
            take_once(here, lake)
            if "import" in actors:
                import_once(here, lake)
    judge(here)
    return here


def judge(here: World) -> None:
    with Lake.open(here.volume) as lake:
        models = replayed(lake, here.told, here.base, here.base_number)
        check_shown(lake, models, here.damaged)
        if "import" in here.volumes:
            assert here.told.source.keys() <= models[max(models)].keys(), "an import left something"
        head = audit(here.volume, allowed=here.findings)
        assert shown(lake.snapshot("kept"), here.damaged) == here.base
        check_inbox(here, lake)
        check_tags(here, lake)
        check_promised(here, lake)
        check_moved(here, lake, models)
        check_scrubbed(here, lake)
        if here.is_calm:
            left = {entry.name for entry in lake.volume.list(layout.TMP)}
            assert left <= {f"{0:032}.json"}, "somebody left a temporary file"
        check_lost_log(here, head)
        here.clock.settle()
        if here.is_cut:
            # Packs stay until the log has come as far as their writers saw: each actor may have
            # made a commit that the power cut took.
            for _ in ACTORS:
                lake.log.commit(Draft("test"), lambda state: Changes())
        for _ in range(2):
            collect(lake, ALL)
        assert (orphans_of(lake).files, [*lake.volume.list(layout.TMP)]) == (0, [])
        with pytest.raises(NotFound):
            lake.volume.stat(layout.pack_path("0" * 32))
        rebuild_index(lake)
        assert shown(lake.snapshot(), here.damaged) == models[head]
        assert shown(lake.snapshot("kept"), here.damaged) == here.base
    copy = copied(here, "copy")
    rebuild_log(copy)
    with Lake.open(copy) as lake:
        check_same(shown(lake.snapshot(), here.damaged), models[head], "log written anew")


def copied(here: World, name: str) -> PosixVolume:
    """Copy the lake to a disk: a log is put in place by renaming directories."""
    copy = here.home / name
    for directory in layout.DIRECTORIES:
        (copy / directory).mkdir(parents=True)
    for path, data in raw_files(here.volume).items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(data)
        time_ns = here.volume.stat(path).mtime_ns
        os.utime(copy / path, ns=(time_ns, time_ns))
    return PosixVolume(copy)


def check_lost_log(here: World, head: int) -> None:
    """Lose commits, write the log anew, leftovers of all who died included, and go on: whatever is
    shown then is there, and whoever collects or compacts changes nothing of it."""
    copy = copied(here, "lost")
    numbers = here.dice("lost log")
    for number in numbers.choice(([], [numbers.randint(1, head)], range(1, head + 1))):
        copy.unlink(layout.commit_path(number))
    rebuild_log(copy)
    with Lake.open(copy) as lake:
        wanted = shown(lake.snapshot(), here.damaged)
        for work in numbers.sample((compact, rebuild_index, partial(collect, retention=ALL)), 3):
            work(lake)
            found = check(lake, deep=True).findings
            assert {finding.kind for finding in found} <= here.findings, (work, found)
            check_same(shown(lake.snapshot(), here.damaged), wanted, f"log lost, {work}")


def check_inbox(here: World, lake: Lake) -> None:
    """Each file that was dropped was in one commit, and left the inbox if it is not kept."""
    paths = [f"{number % 2}/{number}" for number in range(DROPPED)]
    assert waiting(here.home / "inbox") == (sorted(paths) if here.keeps else [])
    batches = [commit.app["batch"] for commit in lake.history() if commit.operation == "inbox"]
    taken = Counter(path for batch in batches for path in here.told.taken[batch])
    assert taken == {f"in/{path}": 1 for path in paths}


def check_tags(here: World, lake: Lake) -> None:
    """What was said of a tag is so; what they show is compared with the log's replay."""
    there = {tag.name: tag.snapshot for tag in lake.refs.tags()}
    told = {name: number for name, number in here.tagged.items() if name not in here.in_doubt}
    assert {name: there.get(name) for name in told} == told


def check_promised(here: World, lake: Lake) -> None:
    """Each name of a mount's own shows what was durable last, or something written since."""
    snapshot = lake.snapshot()
    for name, told in here.promised.items():
        try:
            found: bytes | None = snapshot.get(name)
        except NotFound:
            found = None
        except Corrupt:
            assert here.damaged
            continue
        assert found in told, f"{name}: found {found!r}, told {told}"


def check_moved(here: World, lake: Lake, models: dict[int, Model]) -> None:
    """What was moved out is in the other lake, as it was when it went."""
    with Lake.open(here.away) as away:
        there = shown(away.snapshot())
    for number in range(here.base_number + 1, max(models) + 1):
        commit = lake.log.read(number)
        for path in here.told.begun[commit.app[TOKEN]] if commit.operation == OPERATION else ():
            gone = models[number - 1][path]
            came = there.get(f"{path}.{gone.seq}")
            assert came is not None and came[:5] == gone[:5], f"{path} moved as {came}, was {gone}"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "lakefeed")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Segments and merges so small that runs are pushed down by range; one thread an actor."""
    for module in (copying, check_payloads, opening, reader, scan, together, importing):
        monkeypatch.setattr(module, "ThreadPoolExecutor", Inline)
    with small_groups():
        yield


@pytest.fixture(autouse=True)
def seeded_ids(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ids decide how many directories there are to list, so the seed has to decide the ids."""
    numbers = random.Random()
    monkeypatch.setattr(layout, "new_id", lambda: f"{numbers.getrandbits(128):032x}")
    return numbers.seed


@pytest.mark.parametrize("first", range(FIRST, END, SEEDS_PER_TEST))
def test_whoever_fails_or_dies_the_history_is_what_was_told(
    first: int, tmp_path: Path, seeded_ids: Callable[[int], None]
) -> None:
    for seed in range(first, min(first + SEEDS_PER_TEST, END)):
        seeded_ids(seed)
        try:
            explore(seed, tmp_path / f"{seed}")
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


def test_the_same_seed_gives_the_same_history(
    tmp_path: Path, seeded_ids: Callable[[int], None]
) -> None:
    def story(seed: int, name: str) -> list[tuple[str, str, str]]:
        seeded_ids(seed)
        return explore(seed, tmp_path / name).scheduler.calls

    assert story(3, "once") == story(3, "again") != story(2, "other")
