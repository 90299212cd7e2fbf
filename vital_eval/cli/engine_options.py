"""Options of one engine's own: ``NAME=VALUE`` on the command line, a typed dataclass in the engine's module.

A factory that has any takes a dataclass as its argument ``options``; its fields are the names and say the types.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from vital_eval.errors import VitalError
from vital_eval.registry import suggest

_WORDS = {"true": True, "false": False}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def with_options(factory: Callable[..., Any], engine: str, texts: Sequence[str]) -> Callable[..., Any]:
    """Return a factory that builds an engine with the options given; the same one if there are none.

    Args:
        factory: builds the engine.
        engine: its name, for messages.
        texts: ``NAME=VALUE`` each.

    Raises:
        VitalError: if the engine has no such option, a value is not of its type, or one is given twice.
    """
    if not texts:
        return factory
    kind = _options_of(factory)
    if kind is None:
        raise VitalError(
            f"engine {engine!r} has no options of its own",
            "drop --engine-option; --base-url, --model and --transport are those of the engine openai",
        )
    types_of = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not sign:
            raise VitalError(f"--engine-option {text!r} has no value", "write NAME=VALUE")
        if name not in types_of:
            raise VitalError(f"engine {engine!r} has no option {name!r}", suggest(name, types_of))
        if name in values:
            raise VitalError(f"--engine-option {name} is given twice", "give it once")
        values[name] = _read(name, value, types_of[name])
    return partial(factory, options=kind(**values))


def server_options(base_url: str | None, model: str | None, transport: str | None) -> list[str]:
    """Write the flags that name a server as options of the engine's own; none for a flag that was not given."""
    given = {"base_url": base_url, "model": model, "transport": transport}
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def _options_of(factory: Callable[..., Any]) -> Any:
    """Return the dataclass that a factory takes as ``options``, ``None`` if it takes none."""
    if "options" not in inspect.signature(factory).parameters:
        return None
    hint = typing.get_type_hints(factory).get("options")
    return next((part for part in _alternatives(hint) if dataclasses.is_dataclass(part)), None)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _read(name: str, text: str, hint: Any) -> Any:
    kind = next(part for part in _alternatives(hint) if part is not type(None))
    try:
        return _WORDS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise VitalError(f"--engine-option {name} must be {_KINDS.get(kind, kind.__name__)}, not {text!r}") from error
