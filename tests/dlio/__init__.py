"""The real DLIO benchmark, in an environment of its own, over a lake."""
