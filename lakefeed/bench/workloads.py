"""Workloads: what a model asks of its storage, read from TOML files of constants.

A workload names its samples (how many, how big), how its reader works and how long each accelerator
computes on a batch. The files that come with lakefeed hold the constants of MLPerf Storage; a path
to a file of the user's own works the same. Unknown keys and wrong types are refused by name.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lakefeed.bench.metrics import Demand, demand
from lakefeed.errors import Invalid, NotFound

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# In an installed package the files lie beside this one, in a checkout with the benchmarks.
_PLACES = (
    Path(__file__).parent / "workloads",
    Path(__file__).parents[2] / "benchmarks" / "workloads",
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Accelerator(_Strict):
    """How one kind of accelerator runs a workload; what is set here goes before the workload's."""

    batch_size: int = Field(ge=1)
    computation_seconds: float = Field(gt=0)
    status: str = "own"
    files: int | None = Field(default=None, ge=1)
    sample_bytes: int | None = Field(default=None, ge=1)


class WorkloadFile(_Strict):
    """A workload as its file has it."""

    title: str
    framework: str
    format: str
    files: int = Field(ge=1)
    samples_per_file: int = Field(default=1, ge=1)
    sample_bytes: int = Field(ge=1)
    sample_bytes_stdev: int = Field(default=0, ge=0)
    read_threads: int = Field(default=8, ge=1)
    epochs: int = Field(default=1, ge=1)
    utilisation_min: float = Field(gt=0, le=1)
    accelerators: dict[str, Accelerator] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload on one kind of accelerator."""

    name: str
    title: str
    accelerator: str
    status: str
    framework: str
    format: str
    samples: int
    sample_bytes: int
    sample_bytes_stdev: int
    batch_size: int
    computation_seconds: float
    read_threads: int
    epochs: int
    utilisation_min: float

    @property
    def demand(self) -> Demand:
        """What one accelerator consumes at AU 1."""
        return demand(self.batch_size, self.computation_seconds, self.sample_bytes)

    @property
    def label(self) -> str:
        """The name people write: retinanet/b200."""
        return f"{self.name}/{self.accelerator}"


def names() -> list[str]:
    """Return the names of the workloads that come with lakefeed."""
    return sorted({path.stem for place in _PLACES for path in place.glob("*.toml")})


def load(name: str, accelerator: str | None = None) -> Workload:
    """Return a workload by name or by the path of its file, on an accelerator.

    Without one, the first of its file. NotFound for an unknown name, Invalid for a bad file or an
    accelerator that the workload does not know.
    """
    path = _find(name)
    file = parse(path.read_bytes(), str(path))
    kind = accelerator or next(iter(file.accelerators))
    if kind not in file.accelerators:
        known = ", ".join(file.accelerators)
        raise Invalid(f"accelerator of workload {path.stem}", expected=known, found=kind)
    one = file.accelerators[kind]
    return Workload(
        name=path.stem,
        title=file.title,
        accelerator=kind,
        status=one.status,
        framework=file.framework,
        format=file.format,
        samples=(one.files or file.files) * file.samples_per_file,
        sample_bytes=one.sample_bytes or file.sample_bytes,
        sample_bytes_stdev=0 if one.sample_bytes else file.sample_bytes_stdev,
        batch_size=one.batch_size,
        computation_seconds=one.computation_seconds,
        read_threads=file.read_threads,
        epochs=file.epochs,
        utilisation_min=file.utilisation_min,
    )


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    for place in _PLACES:
        if (place / f"{name}.toml").is_file():
            return place / f"{name}.toml"
    raise NotFound(
        f"workload {name}", hint=f"known are {', '.join(names())}; a path to a .toml file works too"
    )


def parse(data: bytes, where: str) -> WorkloadFile:
    """Return the workload in a TOML file; Invalid says which key is wrong and how."""
    try:
        facts: dict[str, Any] = tomllib.loads(data.decode())
        return WorkloadFile.model_validate(facts)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(where, expected="TOML", found=str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{where}, key {key}", found=first["msg"].lower()) from error
