"""pandas, pyarrow, DuckDB and Hugging Face datasets read a lake, and write where they can."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from lakefeed import Lake
from lakefeed.adapters.fsspec import LakeFileSystem

pytestmark = pytest.mark.slow

FRAME = pd.DataFrame({"a": range(300), "b": [f"x{number % 3}" for number in range(300)]})


@pytest.fixture
def root(tmp_path: Path) -> Iterator[str]:
    Lake.create(tmp_path / "lake").close()
    yield f"{tmp_path}/lake"
    LakeFileSystem.clear_instance_cache()


def test_pandas_writes_and_reads_csv_and_parquet(root: str) -> None:
    FRAME.to_csv(f"lakefeed://{root}/t.csv", index=False)
    FRAME.to_parquet(f"lakefeed://{root}/t.parquet")
    FRAME.to_parquet(f"lakefeed://{root}/parts", partition_cols=["b"])
    assert pd.read_csv(f"lakefeed://{root}/t.csv").equals(FRAME)
    assert pd.read_parquet(f"lakefeed://{root}/t.parquet").equals(FRAME)
    assert sorted(pd.read_parquet(f"lakefeed://{root}/parts")["a"]) == list(range(300))


def test_pandas_reads_a_snapshot_by_url_or_options(root: str) -> None:
    FRAME.to_parquet(f"lakefeed://{root}/t.parquet")
    with Lake.open(root) as lake:
        lake.tag("v1")
    FRAME.head(1).to_parquet(f"lakefeed://{root}/t.parquet")
    assert len(pd.read_parquet(f"lakefeed://{root}/t.parquet")) == 1
    assert len(pd.read_parquet(f"lakefeed://{root}@v1/t.parquet")) == 300
    options = {"lake": root, "at": "v1"}
    assert len(pd.read_parquet("lakefeed://t.parquet", storage_options=options)) == 300


@pytest.mark.parametrize("named", ["in the path", "in the options"])
def test_pyarrow_writes_and_reads_a_dataset(root: str, named: str) -> None:
    fs = LakeFileSystem() if named == "in the path" else LakeFileSystem(lake=root)
    base = f"{root}/set" if named == "in the path" else "set"
    table = pa.Table.from_pandas(FRAME)
    ds.write_dataset(table, base, filesystem=fs, format="parquet", partitioning=["b"])
    assert len(fs.find(base)) == 3
    back = ds.dataset(base, filesystem=fs, partitioning=["b"])
    assert back.count_rows(filter=ds.field("b") == "x1") == 100
    assert sorted(back.to_table()["a"].to_pylist()) == list(range(300))


def test_duckdb_reads_and_writes_through_the_registered_filesystem(root: str) -> None:
    FRAME.to_parquet(f"lakefeed://{root}/parts", partition_cols=["b"])
    FRAME.to_csv(f"lakefeed://{root}/t.csv", index=False)
    with duckdb.connect() as connection:
        connection.register_filesystem(fsspec.filesystem("lakefeed"))
        parts = f"read_parquet('lakefeed://{root}/parts/*/*.parquet', hive_partitioning = true)"
        assert connection.sql(f"select sum(a) from {parts} where b = 'x0'").fetchall() == [(14850,)]
        connection.sql(f"copy (from 'lakefeed://{root}/t.csv') to 'lakefeed://{root}/c.parquet'")
    assert pd.read_parquet(f"lakefeed://{root}/c.parquet").equals(FRAME)


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", str(tmp_path / "downloads"))
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_datasets_read_tables(root: str, datasets: Any) -> None:
    FRAME.to_parquet(f"lakefeed://{root}/parts", partition_cols=["b"])
    files = f"lakefeed://{root}/parts/**/*.parquet"
    whole = datasets.load_dataset("parquet", data_files=files, split="train")
    assert sorted(whole["a"]) == list(range(300))
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert sorted(row["a"] for row in stream) == list(range(300))
    with Lake.open(root) as lake:
        lake.tag("v1")
    options = {"lake": root, "at": "v1"}
    one = datasets.load_dataset("parquet", data_files="lakefeed://parts/b=x0/*", split="train",
                                storage_options=options)  # fmt: skip
    assert len(one) == 100


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_datasets_read_an_image_folder(root: str, datasets: Any) -> None:
    from PIL import Image

    pictures = {}
    for label, shade in (("cat", 10), ("dog", 200)):
        for number in range(4):
            png = io.BytesIO()
            Image.new("L", (4, 4), shade + number).save(png, "PNG")
            pictures[f"{root}/images/{label}/{number}.png"] = png.getvalue()
    fsspec.filesystem("lakefeed").pipe(pictures)
    files = f"lakefeed://{root}/images/**"
    found = datasets.load_dataset("imagefolder", data_files=files, split="train", drop_labels=False)
    shades = {(row["label"], row["image"].getpixel((0, 0))) for row in found}
    assert shades == {(0, 10 + n) for n in range(4)} | {(1, 200 + n) for n in range(4)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_runs_as_printed(root: str, datasets: Any, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for shard, data in ("train-000000.tar.gz", b"one"), ("train-000001.tar", b"two"):
        with tarfile.open(shards / shard, "w:gz" if shard.endswith("gz") else "w") as tar:
            for name, part in (
                ("./d/1.cls", data[:1]),
                ("./d/1.jpg", data),
                ("2.jpg", b""),
                ("2.cls", b"0"),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    page = (Path(__file__).parents[2] / "docs/FSSPEC.md").read_text(encoding="utf-8")
    page = page.replace("/mnt/lake", root).replace("/data/shards", str(shards))
    names: dict[str, Any] = {}
    for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(text, "docs/FSSPEC.md", "exec"), names)
    assert list(names["labels"]["label"]) == ["cat"]
    assert sorted(names["pictures"]) == ["train/cat/1.jpg", "train/dog/1.jpg"]
    with Lake.open(root) as lake:
        snapshot = lake.snapshot()
        one, two = (f"shards/train-00000{number}/d/1.jpg" for number in (0, 1))
        assert snapshot.get_many([one, two]) == [b"one", b"two"]
        assert [snapshot.stat(path).attrs for path in (one, two)] == [
            {"label": "o"},
            {"label": "t"},
        ]
        assert snapshot.stat("shards/train-000001/2.jpg").attrs == {"label": "0"}
