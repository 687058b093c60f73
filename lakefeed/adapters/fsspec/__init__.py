"""A lake as an fsspec filesystem: what pandas, pyarrow, DuckDB and Hugging Face datasets open.

    fsspec.open("lakefeed:///mnt/lake/train/cat/1.jpg")
    pd.read_parquet("lakefeed:///mnt/lake@v1/tables/labels.parquet")
    fsspec.filesystem("lakefeed", lake="/mnt/lake", at="v1").cat("train/cat/1.jpg")

`places` finds the lake in a URL, `entries` says what fsspec wants to know of a row, `reading` and
`filesystem` are the two halves of the filesystem, `files` are open files, and `committing` and
`writing` decide which operations share a commit.
"""

from __future__ import annotations

from lakefeed.adapters.fsspec.filesystem import LakeFileSystem

__all__ = ["LakeFileSystem"]
