"""Typer's options without pydantic, which it loads for the first that has a value."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import typer.core


def spare_pydantic() -> None:
    """Let Typer load pydantic (0.1 s) only for values that it has to make of words.

    A Typer that knows no pydantic has none of what is looked for here, and stays as it is.
    """
    for kind in (typer.core.TyperOption, typer.core.TyperArgument):
        with suppress(AttributeError):
            usual: Any = kind.get_runtime_param
            kind.get_runtime_param = _sparing(usual)  # type: ignore[method-assign]


def _sparing(usual: Callable[..., Any]) -> Any:
    def sparing(parameter: Any, *rest: Any, **how: Any) -> _Coercion:
        return _Coercion(parameter, partial(usual, parameter, *rest, **how))

    return sparing


class _Coercion:
    """Typer's way of making a parameter's value, without pydantic where that has nothing to do.

    All this is private to Typer: what a release has otherwise than here is left to Typer itself.
    """

    def __init__(self, parameter: Any, usual: Callable[[], Any]) -> None:
        self._parameter = parameter
        self._usual = usual

    def __getattr__(self, name: str) -> Any:
        return getattr(self._usual(), name)

    def coerce(self, value: Any, *rest: Any, **how: Any) -> Any:
        """Return the value that the command gets."""
        with suppress(AttributeError, ValueError):  # Typer knows better, or how to say it
            return self._spared(value)
        return self._usual().coerce(value, *rest, **how)

    def _spared(self, value: Any) -> Any:
        param, described = self._parameter, self._parameter.type_descriptor
        wanted, parser = described.annotation, described.parameter_info.parser
        if param.nargs != 1 or (param.param_type_name == "option" and param.multiple):
            if not value or (wanted == list[str] and parser is None):
                return value or ()
        elif value is None:
            return None
        elif parser is not None:
            return parser(value)
        elif isinstance(wanted, type) and isinstance(value, wanted):
            return value
        raise ValueError(value)
