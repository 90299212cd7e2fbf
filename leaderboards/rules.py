"""Which numbers may be compared: everything must be equal but what the comparison is about."""

from __future__ import annotations

from collections.abc import Collection

from vital_eval.errors import ProtocolError
from vital_eval.manifest import Manifest
from vital_eval.protocol import Mode, Protocol, differing_fields

from .sides import Side

#: What a comparison of two modes is about; a difference in any other field makes it a comparison of something else.
COMPARED_FIELDS = ("mode", "prompt", "tools", "max_tool_calls", "max_turns")

#: Who sees no frame cannot be moved by how they are taken.
_SIGHT_FIELDS = ("view", "clip_view", "decoder")

#: Order of the modes in tables, from the one that is given least to the one that is given most.
MODE_ORDER = ("blind", "direct", "cot", "tool")

#: What must be the same for two scores of a task to mean the same thing.
_ENTRY_FIELDS = ("primary", "metrics", "scorer_version", "data_hash")


def is_blind(mode: Mode) -> bool:
    """Tell whether a mode shows no video."""
    return mode.value == "blind"


def same_checkpoint(one: Side, other: Side) -> bool:
    """Tell whether the same weights answered."""
    return one.manifest.engine.fingerprint == other.manifest.engine.fingerprint


def obstacle(one: Side, other: Side, allowed: Collection[str] = (), *, strict: bool = False) -> str:
    """Say why two sides of one task may not be compared.

    Modes of one checkpoint may differ in :data:`COMPARED_FIELDS`, and in how frames are taken if one of them is
    blind. Different checkpoints need equal protocols.

    Args:
        one: a side.
        other: another side of the same task.
        allowed: further protocol fields (``view.max_frames``, ``view``) that may differ.
        strict: whether one checkpoint must also have answered under equal circumstances
            (see :func:`circumstances`).

    Returns:
        The reason, naming the fields; ``""`` if there is none.
    """
    for side in (one, other):
        if not side.cell.complete:
            return f"{side.cell.mode} run incomplete, {side.cell.missing} owed"
        if side.cell.tools is not None and side.cell.tools.invalid:
            return side.cell.tools.verdict
    fields = [name for name in _ENTRY_FIELDS if getattr(one.entry, name) != getattr(other.entry, name)]
    tools, others = one.entry.tools, other.entry.tools
    fields += [f"tools.{name}" for name in tools if name in others and tools[name] != others[name]]
    free = {*allowed, *_free_fields(one, other)}
    fields += [
        f"protocol.{name}"
        for name in differing_fields(one.entry.protocol, other.entry.protocol)
        if not any(name == field or name.startswith(f"{field}.") for field in free)
    ]
    if one.manifest.attempts != other.manifest.attempts:
        fields.append("attempts")
    if strict and same_checkpoint(one, other):
        fields += circumstances(one.manifest, other.manifest)
    return f"they also differ in {', '.join(fields)}" if fields else ""


def circumstances(one: Manifest, other: Manifest) -> tuple[str, ...]:
    """Name what else differs between who answered and how (engine, versions, dtype), weights and labels apart."""
    a, b = one.engine, other.engine
    found = [f"engine.{name}" for name in ("name", "geometry") if getattr(a, name) != getattr(b, name)]
    names = sorted(a.details.keys() | b.details.keys())
    found += [f"engine.details.{name}" for name in names if a.details.get(name) != b.details.get(name)]
    if one.vital_eval != other.vital_eval:
        found.append("vital_eval")
    return tuple(found)


def check_allowed(allowed: Collection[str], protocol: Protocol) -> None:
    """Refuse names that are no fields of a protocol.

    Args:
        allowed: dotted names, a whole group (``view``) included.
        protocol: any protocol.

    Raises:
        ProtocolError: naming the fields there are.
    """
    content = protocol.to_json()
    known = {*content} - {"name"}
    known |= {f"{group}.{name}" for group, inside in content.items() if isinstance(inside, dict) for name in inside}
    for name in allowed:
        if name not in known:
            raise ProtocolError(f"protocols have no field {name!r}", f"fields: {', '.join(sorted(known))}")


def _free_fields(one: Side, other: Side) -> tuple[str, ...]:
    if not same_checkpoint(one, other):
        return ()
    blind = is_blind(one.cell.mode) != is_blind(other.cell.mode)
    return (*COMPARED_FIELDS, *(_SIGHT_FIELDS if blind else ()))
