"""A batch as tensors: the feed's own buffer seen through torch, nothing copied.

Samples have different lengths, so a batch is one flat uint8 tensor and where each sample lies in
it: `views()` cuts it (what `torchvision.io.decode_jpeg` takes), `nested()` is the same as a jagged
nested tensor, `rows()` a padded matrix. The tensors refer to the feed's memory and keep it alive.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lakefeed.errors import Invalid
from lakefeed.feed.batch import Batch as FeedBatch
from lakefeed.feed.batch import Names


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Verified samples; sample i is `data[offsets[i] : offsets[i] + lengths[i]]`.

    `state` is where to go on behind this batch. Labels are int64, as torch's losses want them. The
    first `real` samples are the step's own, see `FeedOptions.last`; `corrupt` names what was left
    out.
    """

    names: Names = field(repr=False)
    labels: torch.Tensor | None
    data: torch.Tensor
    offsets: torch.Tensor
    lengths: torch.Tensor
    state: dict[str, Any]
    real: int
    corrupt: tuple[str, ...] = ()

    @classmethod
    def of(cls, batch: FeedBatch) -> Batch:
        """Return a feed's batch as tensors over the same memory."""
        labels = batch.labels
        return cls(
            batch.names,
            None if labels is None else torch.from_numpy(labels).to(torch.int64),
            torch.from_numpy(batch.data),
            torch.from_numpy(batch.offsets),
            torch.from_numpy(batch.lengths),
            dict(batch.state),
            batch.real,
            batch.corrupt,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def paths(self) -> list[str]:
        """The samples' paths. They are looked up on first use, so ask while the loop runs."""
        return self.names.list

    def views(self) -> list[torch.Tensor]:
        """Return each sample's bytes as a flat uint8 tensor, without copying them."""
        return list(torch.split(self.data, self.lengths.tolist()))

    def nested(self) -> torch.Tensor:
        """Return the batch as one jagged nested tensor over the same memory."""
        end = self.lengths.new_tensor([len(self.data)])
        return torch.nested.nested_tensor_from_jagged(self.data, torch.cat([self.offsets, end]))

    def rows(self, width: int | None = None) -> torch.Tensor:
        """Return a new matrix with one sample a row, zeros behind it; `width` fixes the columns.

        Invalid if a sample is longer than `width`.
        """
        longest = int(self.lengths.max()) if len(self) else 0
        if width is not None and longest > width:
            at = int(self.lengths.argmax())
            raise Invalid(self.paths[at], expected=f"at most {width} bytes", found=longest)
        rows = self.data.new_zeros(len(self), longest if width is None else width)
        for row, sample in zip(rows, self.views(), strict=True):
            row[: len(sample)] = sample
        return rows

    def pin_memory(self, device: object = None) -> Batch:
        """Return the batch in page-locked memory; torch's DataLoader calls this by name."""
        return self._each(lambda tensor: tensor.pin_memory())

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        """Return the batch on a device; lengths and offsets go along."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def record_stream(self, stream: Any) -> None:
        """Tell the allocator that a CUDA stream uses the batch."""
        self._each(lambda tensor: tensor.record_stream(stream) or tensor)

    def _each(self, action: Any) -> Batch:
        return replace(
            self,
            labels=None if self.labels is None else action(self.labels),
            data=action(self.data),
            offsets=action(self.offsets),
            lengths=action(self.lengths),
        )
