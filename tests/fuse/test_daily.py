"""Programs of daily life say and leave on the mount what they do on a plain directory."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.fuse.tools import Mounted, needs_fuse, new_mount
from tests.support.patience import PATIENCE_SECONDS

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]

GIT = "git -c user.name=n -c user.email=e@x -c init.defaultBranch=main"
# What is run, by the programs that it takes besides a shell's.
SCRIPTS = {
    "sed mv install": """
        printf 'one\\ntwo\\n' > a && chmod 640 a && sed -i s/one/ONE/ a && cat a
        cp -a --reflink=auto a b && mv a "$OUTSIDE/a" && mv "$OUTSIDE/a" c && cmp b c
        install -D -m 750 b deep/down/x && cp --sparse=always c d
        ln -s b soft && cp -a soft copied && touch -d '2001-02-03 04:05:06.789' old
        find . -newer old -type f | sort""",
    "vim": """
        printf 'one\\ntwo\\n' > a
        vim -es -u NONE -c 'set backup backupdir=. backupcopy=no' -c '%s/two/TWO/' -c wq a
        vim -es -u NONE -c 'set backupcopy=yes undofile undodir=.' -c '%s/one/ONE/' -c wq a
        cat a; rm -f .a.un~""",
    "make cc": """
        printf 'int f(void);int main(){return f();}' > a.c; printf 'int f(void){return 7;}' > b.c
        printf 'p: a.o b.o\\n\\tcc -o p a.o b.o\\n%%.o: %%.c\\n\\tcc -c $<\\n' > Makefile
        make; ./p || echo $?; make; touch -d '-1 hour' b.o; make; rm -f p *.o""",
    "zip unzip": """
        mkdir t; seq 9999 > t/a; zip -qr t.zip t; unzip -qd o t.zip; diff -r t o/t; rm t.zip""",
    "7z": """
        mkdir t; seq 9999 > t/a; 7z a -bd t.7z t > log; 7z x -bd -oo t.7z > log; diff -r t o/t
        rm log t.7z""",
    "flock dd": """
        flock l -c 'flock -n l -c "echo twice" || echo refused'
        dd if=/dev/zero bs=4k count=9 of=d oflag=dsync,append conv=notrunc status=none; wc -c < d
        truncate -s 5M s; printf x | dd of=s bs=1 seek=3000000 conv=notrunc status=none; cksum s""",
    "tar": """
        mkdir t; seq 9 > t/a; tar --sparse -g snar -cf 0.tar t; mv t/a t/b; mkdir t/d; seq 9 > t/d/e
        tar -g snar -cf 1.tar t; rm -r t; tar -g /dev/null -xf 0.tar; tar -g /dev/null -xf 1.tar
        rm -f snar *.tar""",
    "rsync": """
        mkdir a; seq 99999 > a/big; seq 9 > a/gone; rsync -a a/ b/; seq 4 >> a/big; rm a/gone
        rsync -a --inplace --append --delete a/ b/; diff -r a b
        printf x | dd of=a/big bs=1 seek=5 conv=notrunc status=none; touch -d '+1 hour' a/big
        rsync -a --inplace --no-whole-file --partial a/ b/; diff -r a b; rm -r a b""",
    "git": f"""
        {GIT} init -q r; cd r; for n in 1 2 3; do echo $n > $n; git add .; {GIT} commit -qm $n; done
        git worktree add -q ../w -b side; cd ../w; echo s > s; git add .; {GIT} commit -qm s
        cd ../r
        echo 4 > 4; git add .; {GIT} commit -qm 4; {GIT} rebase -q side; git worktree remove ../w
        git log --format=%s; git gc -q --prune=now; git fsck; git clone -q . ../c
        git status --short; cd ..; diff -r r/1 c/1; rm -rf r c""",
    "hg": """
        hg init r; cd r; echo a > a; hg -q add a; hg commit -u x -m 1
        echo b >> a; hg commit -u x -m 2
        hg -q clone . ../c; hg -R ../c log -T '{rev} '; hg up -q 0; cat a; hg verify -q; hg status
        cd ..; rm -rf r c""",
    "sqlite3": """
        sqlite3 d 'pragma journal_mode=wal; create table t(a); insert into t values(1),(2);'
        sqlite3 d 'begin; insert into t select a + 2 from t; commit; vacuum; select sum(a) from t;'
        sqlite3 d 'pragma integrity_check'; rm -f d""",
}  # fmt: skip


def left(directory: Path) -> dict[str, tuple[str, int, bytes | str]]:
    """Return the kind, mode, and bytes or target of everything below a directory."""
    found: dict[str, tuple[str, int, bytes | str]] = {}
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        content: bytes | str = b""
        if stat.S_ISLNK(mode):
            content = os.readlink(path)
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        found[str(path.relative_to(directory))] = (stat.filemode(mode)[0], mode & 0o7777, content)
    return found


def said(script: str, directory: Path, outside: Path) -> str:
    directory.mkdir()
    outside.mkdir(exist_ok=True)
    done = subprocess.run(
        ["sh", "-ec", script], cwd=directory, env={**os.environ, "OUTSIDE": str(outside)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    return f"{done.stdout}\n{done.returncode}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with new_mount(tmp_path_factory.mktemp("daily")) as here:
        yield here


@pytest.mark.parametrize("programs", SCRIPTS)
def test_a_program_says_and_leaves_what_it_does_on_a_plain_directory(
    shared: Mounted, tmp_path: Path, programs: str
) -> None:
    for program in programs.split():
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    script, outside, plain = SCRIPTS[programs], tmp_path / "outside", tmp_path / "plain"
    work = shared.path / programs
    here, there = said(script, work, outside), said(script, plain, outside)
    assert here == there
    assert there.endswith("\n0")
    wanted = left(plain)
    assert left(work) == wanted
    shared.sync()
    assert left(work) == wanted
    with Lake.open(shared.lake) as lake:
        snapshot = lake.snapshot()
        for path, (kind, _, content) in wanted.items():
            assert kind != "-" or snapshot.get(f"{programs}/{path}") == content
