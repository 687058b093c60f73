"""The FUSE mount, on real mounts."""
