"""The feed: order, selections, batches, resume, limits."""
