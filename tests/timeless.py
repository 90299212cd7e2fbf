"""Two runs of the same thing never take the same time: what is left of their results without it."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

_T = TypeVar("_T")


def timeless(thing: _T) -> _T:
    """Return a copy of a record, trajectory, turn or generation without its times.

    Times are the fields that are left out of comparisons, here and below; each becomes 0, or ``None`` where that is
    what an unmeasured one is.
    """
    if isinstance(thing, tuple):
        return tuple(timeless(entry) for entry in thing)  # type: ignore[return-value]
    if not dataclasses.is_dataclass(thing) or isinstance(thing, type):
        return thing
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(thing):
        if field.compare:
            changes[field.name] = timeless(getattr(thing, field.name))
        else:
            changes[field.name] = None if field.default is None else 0.0
    return dataclasses.replace(thing, **changes)
