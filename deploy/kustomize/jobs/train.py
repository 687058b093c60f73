"""Train a picture classifier from a lake on any number of ranks, and survive being killed.

    python train.py /lakes/main --select 'train/**' --rank 0 --world-size 2 --run-dir /lakes/runs/a

Pictures lie in one directory a class. All ranks read one snapshot, which rank 0 picks and which is
held while the run lasts, so that neither compaction nor garbage collection disturbs it. Gradients
are averaged by torch's DistributedDataParallel. Every `--checkpoint-steps` rank 0 saves the weights
together with the feed's state; a run that starts again goes on behind the last sample that those
weights have seen, also on another number of ranks: nothing is repeated, nothing is missed.

One line of JSON an epoch: loss, accuracy, samples a second, and the share of time spent waiting for
batches; a last one says what the limit was. Save a checkpoint on the volume, not in the lake: it is
rewritten, files in a lake are not.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lakefeed import Feed, FeedOptions, Lake, LakefeedError
from lakefeed.metrics.exporter import serve
from lakefeed.metrics.loader import loader_metrics


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="train a picture classifier from a lake")
    parser.add_argument("lake")
    parser.add_argument("--select", default="train/**")
    parser.add_argument("--at", default=None, help="tag or number; default: the newest snapshot")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--master", default="127.0.0.1:29500", help="where rank 0 listens")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--checkpoint-steps", type=int, default=100)
    parser.add_argument("--metrics", default="", metavar="HOST:PORT", help="for Prometheus")
    return parser.parse_args()


def join(args: argparse.Namespace, device: torch.device) -> None:
    """Meet the other ranks; whoever waits longer than five minutes for them fails and restarts."""
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{args.master}",
        rank=args.rank,
        world_size=args.world_size,
        timeout=timedelta(minutes=5),
    )


def agree(value: Any, world_size: int) -> Any:
    """Return rank 0's value on every rank."""
    box = [value]
    if world_size > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def shown(address: str) -> AbstractContextManager[object]:
    """Serve the feed's metrics while the block runs, where an address is given."""
    host, _, port = address.rpartition(":")
    return serve(int(port), host) if port else nullcontext()


def network(classes: int, side: int) -> nn.Module:
    """Return a small convolutional network for square colour pictures."""

    def block(here: int, there: int) -> list[nn.Module]:
        return [nn.Conv2d(here, there, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]

    inside = 64 * (side // 8) ** 2
    return nn.Sequential(
        *block(3, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(inside, classes)
    )


def decode(files: list[memoryview], side: int) -> torch.Tensor:
    """Return the pictures as one float tensor, channels first."""
    pictures = [
        np.asarray(Image.open(io.BytesIO(file)).convert("RGB").resize((side, side)))
        for file in files
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def save(path: Path, content: dict[str, Any]) -> None:
    """Replace a checkpoint by a complete, durable one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".new"), "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path.with_suffix(".new"), path)


class Epoch:
    """What one pass comes to, on this rank."""

    def __init__(self, number: int) -> None:
        self.number, self.started, self.waited = number, time.monotonic(), 0.0
        self.samples, self.right, self.loss = 0, 0, 0.0

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count one step."""
        self.samples += len(labels)
        self.right += int((logits.argmax(1) == labels).sum())
        self.loss += float(loss) * len(labels)

    def line(self) -> dict[str, object]:
        """Return the figures of the epoch."""
        seconds = time.monotonic() - self.started
        return {
            "epoch": self.number,
            "samples": self.samples,
            "loss": round(self.loss / self.samples, 4),
            "accuracy": round(self.right / self.samples, 4),
            "samples_per_second": round(self.samples / seconds, 1),
            "stall_share": round(self.waited / seconds, 4),
        }


def train(args: argparse.Namespace, feed: Feed, saved: dict[str, Any] | None) -> None:
    """Train until the feed ends, from a checkpoint if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    model = network(len(feed.class_names), args.image_size).to(device)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    if saved:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        feed.restore(saved["feed"])
    shared: nn.Module = DistributedDataParallel(model) if args.world_size > 1 else model
    checkpoint = args.run_dir / "checkpoint.pt"

    def keep(state: dict[str, Any]) -> None:
        if args.rank == 0:
            content = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            save(checkpoint, {**content, "feed": state})

    epoch: Epoch | None = None
    asked = time.monotonic()
    for step, batch in enumerate(feed, 1):
        epoch = epoch or Epoch(batch.cursor.epoch)
        epoch.waited += time.monotonic() - asked
        labels = torch.from_numpy(np.asarray(batch.labels, dtype=np.int64)).to(device)
        logits = shared(decode(batch.views(), args.image_size).to(device))
        loss = nn.functional.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        epoch.add(loss.detach(), logits.detach(), labels)
        state = batch.state
        if state["epoch"] != epoch.number:  # the state behind an epoch's last batch is the next's
            print(json.dumps({"rank": args.rank, **epoch.line()}), flush=True)
            epoch = None
        if step % args.checkpoint_steps == 0:
            keep(state)
        asked = time.monotonic()
    keep(feed.state())


def main() -> None:
    """Pick a snapshot, hold it, train."""
    args = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.world_size > 1:
        join(args, device)
    checkpoint = args.run_dir / "checkpoint.pt"
    saved = torch.load(checkpoint, map_location="cpu") if checkpoint.exists() else None
    saved = agree(saved, args.world_size)
    with Lake.open(args.lake) as lake:
        wanted = saved["feed"]["snapshot"] if saved else args.at
        number = agree(lake.snapshot(wanted).number, args.world_size)
        options = FeedOptions(
            batch_size=args.batch_size,
            seed=args.seed,
            epochs=args.epochs,
            labels="parent",
            last="drop",  # whole batches only; the ranks take equally many in any case
            rank=args.rank,
            world_size=args.world_size,
            observer=loader_metrics(),
        )
        with (
            shown(args.metrics),
            lake.hold(number, holder=f"training rank {args.rank}"),
            Feed(lake.snapshot(number), args.select, options) as feed,
        ):
            train(args, feed, saved)
            print(json.dumps({"rank": args.rank, "verdict": feed.stats().verdict}), flush=True)
    if args.world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except LakefeedError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)  # the Job gives up at once on codes that no retry can mend
