"""Each worker its own share: ranks for the strategies of tf.distribute.

TensorFlow tells a process who it is by TF_CONFIG, which its own resolver reads (`place`). A
strategy's `fit` splits the batches of an ordinary dataset once more; `distributed` gives each
worker a dataset of its own instead, so that one step takes one batch for each replica and reads
nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from lakefeed.errors import Invalid

_TRAINING = ("chief", "worker")


def place() -> tuple[int, int]:
    """Return (rank, world size) as TF_CONFIG says: the chief first, then the workers in order.

    A process that TF_CONFIG does not count among them (none at all, an evaluator) is alone: (0, 1).
    So is the chief of parameter servers, whose workers do what it tells them and read nothing.
    """
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    cluster = resolver.cluster_spec().as_dict()
    if resolver.task_type not in _TRAINING or cluster.get("ps"):
        return 0, 1
    sizes = {task: len(cluster.get(task, ())) for task in _TRAINING}
    rank = resolver.task_id + (sizes["chief"] if resolver.task_type == "worker" else 0)
    return rank, sum(sizes.values())


def distributed(
    strategy: Any,
    make: Callable[..., Any],
    *,
    batch_size: int,
    checkpoint: Any = None,
) -> Any:
    """Return a distributed dataset of which each worker reads its own share.

        train = lakefeed.tf.distributed(
            strategy,
            lambda **share: lakefeed.tf.dataset("/mnt/lake", labels="parent", **share).map(decode),
            batch_size=512,
        )
        model.fit(train, epochs=5, shuffle=False)

    `make` is called in each worker with its `batch_size` (of one replica), `rank`, `world_size` and
    `checkpoint`. `batch_size` counts the samples that all replicas take in one step together.

    Of several replicas in one process Keras believes that each batch is a step, so it expects
    epochs that are longer than they are. Without `steps_per_epoch` it notices their ends (and warns
    of them unless there is a checkpoint); with it, the dataset that `make` returns has to repeat.
    """

    def for_worker(context: Any) -> Any:
        pipelines = context.num_input_pipelines
        replicas = context.num_replicas_in_sync
        if replicas % pipelines:
            raise Invalid(
                "replicas", expected=f"as many on each of {pipelines} workers", found=replicas
            )
        share: dict[str, Any] = {
            "batch_size": context.get_per_replica_batch_size(batch_size),
            "rank": context.input_pipeline_id,
            "world_size": pipelines,
        }
        if checkpoint is not None:
            checkpoint.batches_per_step = replicas // pipelines
            share["checkpoint"] = checkpoint
        made = make(**share)
        if checkpoint is not None:
            checkpoint.counted = int(made.cardinality())
        return made

    return strategy.distribute_datasets_from_function(for_worker)
