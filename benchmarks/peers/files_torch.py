"""torch's DataLoader over plain files, two worker processes, shuffled."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.contest import Delivered, Task, count, listed


class _Files:
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> bytes:
        return Path(self.paths[at]).read_bytes()


def same(batch: list[bytes]) -> list[bytes]:
    """Leave a batch as it is."""
    return batch


class FilesTorch:
    """`DataLoader(files, shuffle=True, num_workers=2)`."""

    name = "torch files, 2 workers"
    needs = ("torch",)

    def prepare(self, task: Task) -> None:
        """The files are there."""

    def run(self, task: Task) -> Delivered:
        """Read each file in a worker process."""
        from torch.utils.data import DataLoader

        loader = DataLoader(
            _Files(listed(task.files)),  # type: ignore[arg-type]
            batch_size=task.batch,
            shuffle=True,
            num_workers=2,
            collate_fn=same,
            persistent_workers=True,
        )
        return count(task, lambda: loader)
