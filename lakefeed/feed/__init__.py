"""The feed: from a snapshot to batches, in a seeded order."""
