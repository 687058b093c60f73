"""The settings of `lakefeed compactd`: from flags, the environment and a TOML file, in that order.

    lakefeed compactd /mnt/lake --inbox /mnt/drop --pack-age 1m
    LAKEFEED_LAKES=/mnt/lake LAKEFEED_INBOX=/mnt/drop LAKEFEED_PACK_AGE=1m lakefeed compactd

    lakes = ["/mnt/a", "/mnt/b"]
    pack-age = "1m"
    [inboxes]
    "/mnt/a" = ["/mnt/drop=cameras"]

Sizes, durations and rates are written as everywhere on the command line. Whatever is wrong is one
line that names the setting, what was expected and what was found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from lakefeed.cli.units import (
    DURATION_MAX_SECONDS,
    INTEGER_MAX,
    parse_address,
    parse_duration,
    parse_rate,
    parse_size,
)
from lakefeed.cli.zones import check_zone
from lakefeed.errors import Invalid, LakefeedError, NotFound
from lakefeed.format.paths import check_prefix
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.garbage import Retention
from lakefeed.service.options import PACKS_MIN, InboxOptions, LakeOptions, ServiceOptions
from lakefeed.service.window import Window

PORT = 9464
_PREFIX = "LAKEFEED_"


def _reader(read: Callable[[str], Any], expected: str) -> BeforeValidator:
    def validate(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        found = read(value)
        if found is None:
            raise ValueError(expected)
        return found

    return BeforeValidator(validate)


def _window(value: Any) -> Window | None:
    """Return the window that a text means; None for none, and for ''."""
    if value is None or isinstance(value, Window):
        return value
    try:
        return Window.parse(str(value)) if value != "" else None
    except Invalid as error:
        raise ValueError(str(error.expected)) from error


def _listen(value: Any) -> Any:
    """Return the host and the port that a text means."""
    if isinstance(value, tuple | list):
        return value
    found = parse_address(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("an address such as 127.0.0.1:9464")
    return found


def _words(value: Any) -> Any:
    return tuple(word for word in value.split(os.pathsep) if word) if isinstance(value, str) else (
        value)  # fmt: skip


_duration = _reader(parse_duration, "a duration such as 90s, 15m, 12h, 7d, up to 100 years")
# A file may hold plain numbers, seconds and bytes, which no reader has seen. Each type says how
# small a value may be: of two lower bounds, a type's and a field's, pydantic takes the type's.
Duration = Annotated[float, Field(ge=0, le=DURATION_MAX_SECONDS, allow_inf_nan=False), _duration]
Lease = Annotated[float, Field(ge=1, le=DURATION_MAX_SECONDS, allow_inf_nan=False), _duration]
Size = Annotated[
    int,
    Field(ge=1, le=INTEGER_MAX),
    _reader(parse_size, "a size such as 4096, 256KiB, 64MiB, 1GB"),
]
Rate = Annotated[
    Annotated[int, Field(gt=0, le=INTEGER_MAX)] | None,
    _reader(parse_rate, "a rate such as 200MB/s"),
]
Port = Annotated[int, Field(ge=0, le=65535)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


class ServiceSettings(BaseSettings):
    """Every setting, with its default; the names are those of the flags."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", arbitrary_types_allowed=True
    )

    lakes: Words = ()
    inbox: Words = ()
    inboxes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    inbox_quiet: Duration = 5.0
    pack_files: int = Field(10_000, ge=1)
    pack_bytes: Size = 64 << 20
    pack_age: Duration = 30.0
    keep_inbox: bool = False
    interval: Duration = Field(30.0, gt=0)
    target_size: Size = 1 << 30
    live_ratio: float = Field(0.5, ge=0, le=0.8)
    packs_min: int = Field(PACKS_MIN, ge=2)
    rate: Rate = None
    window: Annotated[Window | None, BeforeValidator(_window)] = None
    gc_interval: Duration = 3600.0
    keep: Duration = 7 * 24 * 3600.0
    keep_snapshots: int = Field(1, ge=1)
    grace: Duration = 24 * 3600.0
    scrub_interval: Duration = 24 * 3600.0
    scrub_duration: Duration = 3600.0
    listen: Annotated[tuple[str, Port], NoDecode, BeforeValidator(_listen)] = ("127.0.0.1", PORT)
    lease: Lease = 30.0
    name: str = ""
    log_format: Literal["text", "json"] = "text"

    def options(self, timeout_seconds: float) -> ServiceOptions:
        """Return what the daemon is told; Invalid where settings do not fit together."""
        if not self.lakes:
            hint = "name it as an argument, in LAKEFEED_LAKES or as lakes in --config"
            raise Invalid("compactd", expected="at least one lake", found="none", hint=hint)
        lakes = tuple(LakeOptions(lake, self._inboxes_of(lake)) for lake in self._lakes())
        _check_apart(lakes)
        return ServiceOptions(
            lakes=lakes,
            name=self.name or f"{os.uname().nodename}/{os.getpid()}",
            interval_seconds=self.interval,
            compaction=CompactionOptions(
                target_bytes=self.target_size, live_ratio=self.live_ratio, packs_min=self.packs_min
            ),
            rate_bytes=self.rate,
            window=self.window,
            gc_interval_seconds=self.gc_interval,
            retention=Retention(self.keep, self.grace, self.keep_snapshots),
            scrub_interval_seconds=self.scrub_interval,
            scrub_seconds=self.scrub_duration,
            lease_seconds=self.lease,
            timeout_seconds=timeout_seconds,
            listen=self.listen,
        )

    def _lakes(self) -> tuple[str, ...]:
        lakes: dict[str, str] = {}
        for lake in self.lakes:
            lakes.setdefault(self._place(lake), lake)
        unknown = sorted(lake for lake in self.inboxes if self._place(lake) not in lakes)
        if unknown:
            raise Invalid("setting inboxes", expected=f"one of {', '.join(self.lakes)}",
                          found=unknown[0])  # fmt: skip
        if self.inbox and len(lakes) > 1:
            raise Invalid("setting inbox", expected="one lake, or a table [inboxes] in --config",
                          found=f"{len(lakes)} lakes")  # fmt: skip
        return tuple(lakes.values())

    def _inboxes_of(self, lake: str) -> tuple[InboxOptions, ...]:
        place = self._place(lake)
        named = (words for other, words in self.inboxes.items() if self._place(other) == place)
        words = dict.fromkeys((*self.inbox, *chain.from_iterable(named)))
        return tuple(self._inbox(word) for word in words)

    def _place(self, lake: str) -> str:
        """Return what is the same for all spellings of one lake.

        Links are followed only where there are inboxes, which are compared with the lakes anyway: a
        volume that hangs should not keep the daemon from the other lakes.
        """
        if self.inbox or self.inboxes:
            return os.path.realpath(lake)
        return str(Path(lake).absolute())

    def _inbox(self, word: str) -> InboxOptions:
        directory, _, prefix = word.partition("=")
        if not directory:
            raise Invalid("setting inbox", expected="DIR or DIR=PREFIX", found=repr(word))
        return InboxOptions(
            directory,
            check_prefix(prefix),
            self.inbox_quiet,
            self.pack_files,
            self.pack_bytes,
            self.pack_age,
            keep=self.keep_inbox,
        )


def _check_apart(lakes: tuple[LakeOptions, ...]) -> None:
    """Refuse inboxes that lie in a lake or in each other, or that a lake lies in.

    A lake's own files would be taken for arrivals, and each file of two inboxes twice.
    """
    inboxes = [inbox.directory for lake in lakes for inbox in lake.inboxes]
    others = [(lake.path, "outside of lakes, and with none in it") for lake in lakes]
    for directory in inboxes:
        for other, expected in others:
            if _overlap(os.path.realpath(directory), os.path.realpath(other)):
                raise Invalid("setting inbox", expected=f"a directory {expected}",
                              found=f"{directory} beside {other}")  # fmt: skip
        others.append((directory, "apart from other inboxes"))


def _overlap(one: str, other: str) -> bool:
    return os.path.commonpath([one, other]) in (one, other)


def load(flags: dict[str, Any], config: str | None) -> ServiceSettings:
    """Return the settings from flags (None: not given), environment and file; Invalid if wrong."""
    written = {} if config is None else _read(config)

    class Loaded(ServiceSettings):
        """The settings with their sources: flags first, then the environment, then the file."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """Return the sources in their order."""
            return init_settings, env_settings, InitSettingsSource(settings_cls, written)

    given = {name: value for name, value in flags.items() if value not in (None, (), [])}
    try:
        found = Loaded(**given)
    except ValidationError as error:
        raise _invalid(error, given, config) from error
    except SettingsError as error:
        # Of all variables only this one is read as JSON.
        expected = """JSON such as {"/mnt/lake": ["/mnt/drop=cameras"]}"""
        inboxes = repr(os.environ.get("LAKEFEED_INBOXES"))
        raise Invalid("setting inboxes", expected=expected, found=inboxes) from error
    if found.window is not None:
        check_zone()
    return found


def _read(config: str) -> dict[str, Any]:
    """Return a TOML file's settings, spelled as fields are."""
    if not Path(config).is_file():
        raise NotFound(f"settings file {config}", hint="check the name given to --config")
    try:
        found = TomlConfigSettingsSource(ServiceSettings, Path(config)).toml_data
    except ValueError as error:
        raise Invalid(f"settings file {config}", expected="TOML", found=str(error)) from error
    return {name.replace("-", "_"): value for name, value in found.items()}


def _invalid(error: ValidationError, given: dict[str, Any], config: str | None) -> LakefeedError:
    problems = error.errors(include_url=False)
    first = problems[0]
    field = str(first["loc"][0]) if first["loc"] else "settings"
    name = field.replace("_", "-")
    expected = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "extra_forbidden":
        expected = "a setting that exists"
    others = sorted({str(p["loc"][0]).replace("_", "-") for p in problems[1:] if p["loc"]})
    also = f"also wrong: {', '.join(others)}" if others else "see lakefeed compactd --help"
    hint = f"it is set by {_source(field, given, config)}; {also}"
    return Invalid(f"setting {name}", expected=expected, found=repr(first["input"]), hint=hint)


def _source(field: str, given: dict[str, Any], config: str | None) -> str:
    """Return where a setting was found, as whoever wrote it there calls it."""
    if field in given:
        return f"--{field.replace('_', '-')}"
    variable = f"{_PREFIX}{field}".upper()
    found = next((name for name in os.environ if name.upper() == variable), None)
    return found or str(config)
