"""The lake itself: names, log, snapshots, writers, readers, and what keeps them healthy."""
