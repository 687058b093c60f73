"""The daemon and its parts, on real directories."""
