"""Trees to move in and out of lakes, and a way to compare them to the last nanosecond."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

Facts = tuple[str, int, int, bytes]


def make_tree(root: Path, seed: int = 7) -> None:
    """Make a tree with one of everything that a lake can hold."""
    chance = random.Random(seed)
    root.mkdir()
    files = {
        "a.txt": b"hello\n",
        "a/b.txt": b"below a directory that sorts after a.txt",
        "a/empty": b"",
        "a b/ spaces and 'quotes'": b"x" * 4095,
        "a-b/dash": b"y" * 4096,
        "ünï/日本語.bin": b"z" * 4097,
        "long/" + "n" * 255: b"long name",
        "/".join(["deep" * 20] * 12) + "/end": b"long path",
        "line\nbreak": b"newline",
        "middle": chance.randbytes(700_000),
        "big": chance.randbytes(9_000_001),
        "zeros": bytes(1 << 20),
        "above": bytes((1 << 20) + 1),
    }
    for number in range(300):
        files[f"many/{number % 7}/{number:04d}.png"] = chance.randbytes(chance.randrange(9000))
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(chance.choice([0o644, 0o600, 0o755, 0o444]))
        time_ns = chance.randrange(10**18, 17 * 10**17)
        os.utime(path, ns=(time_ns, time_ns))
    (root / "nothing/in/here").mkdir(parents=True)
    (root / "a/link").symlink_to("b.txt")
    (root / "dangling").symlink_to("no/such/file")
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    for directory, _, _ in os.walk(root, topdown=False):
        os.chmod(directory, 0o750)
        os.utime(directory, ns=(1_234_567_890_123_456_789, 1_234_567_890_123_456_789))


def facts(root: Path) -> dict[str, Facts]:
    """Return kind and mode, size, time and bytes of everything below a directory."""
    found: dict[str, Facts] = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            info = path.lstat()
            data = b""
            if stat.S_ISREG(info.st_mode):
                data = path.read_bytes()
            elif stat.S_ISLNK(info.st_mode):
                data = os.fsencode(os.readlink(path))
            size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
            mode = stat.filemode(info.st_mode)
            found[str(path.relative_to(root))] = (mode, size, info.st_mtime_ns, data)
    return found


def await_a_tick(file: Path) -> None:
    """Return once a file made beside this one is later by the file system's clock."""
    probe = file.with_name("probe")
    while not probe.exists() or probe.stat().st_ctime_ns <= file.stat().st_ctime_ns:
        probe.write_bytes(b"")
    probe.unlink()
