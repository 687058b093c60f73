"""Bytes on a mounted volume: the only layer that does file I/O."""
