"""A lake as an ordinary directory: the FUSE mount.

From the kernel's request down: `operations` and `writing` answer it, `tree` knows names and
inodes (`nodes`), `view` reads them from the index, `reading` fetches and verifies bytes, `spool`
holds what was written, `pending` commits it, `moving` renames. `session` mounts, follows the head
and unmounts; `kernel` and `guard` speak to the kernel about the mount itself. Everything but volume
reads and commits runs on one thread, so state between two awaits is atomic.
"""

from __future__ import annotations
