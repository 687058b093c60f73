"""Bytes to values and back, without I/O: paths, payloads, rows, packs, segments, commits."""
