"""Who judges: everything that can move a verdict besides the three fields it is shown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vital_eval.judge.errors import JudgeError
from vital_eval.judge.prompt import PROMPT_VERSION, prompt_hash


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """A judge as it was asked for. The name that the server answers with is kept with every verdict.

    Attributes:
        model: the model's name as asked for.
        host: host name of the endpoint, without port.
        prompt_version: see :data:`vital_eval.judge.prompt.PROMPT_VERSION`.
        prompt_hash: hash of the prompt's words.
        plain_json: the form of the reply is asked for in words, not by a schema.
        temperature: of the sampling.
        seed: of the sampling.
        max_tokens: of a reply.
    """

    model: str
    host: str
    prompt_version: int
    prompt_hash: str
    plain_json: bool = False
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 1024

    @property
    def hash(self) -> str:
        """Hash of all fields, 16 hexadecimal digits."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]

    def describe(self, answered_as: str | None) -> str:
        """Return one line that names the judge.

        Args:
            answered_as: the model's name in the server's replies, ``None`` before the first one.
        """
        name = answered_as or self.model
        asked = "" if name == self.model else f" (asked for as {self.model})"
        form = ", JSON in words" if self.plain_json else ""
        return f"{name}{asked} at {self.host}, prompt v{self.prompt_version} {self.prompt_hash}{form}"


def identify(model: str, host: str, *, plain_json: bool) -> JudgeIdentity:
    """Return the identity of a judge under today's prompt."""
    return JudgeIdentity(model, host, PROMPT_VERSION, prompt_hash(plain_json=plain_json), plain_json)


def identity_from_json(data: Mapping[str, Any]) -> JudgeIdentity:
    """Build an identity from the data that :func:`dataclasses.asdict` gave.

    Raises:
        JudgeError: if a field is missing, unknown or not of its type.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(JudgeIdentity)}
    if not isinstance(data, Mapping) or data.keys() != kinds.keys():
        raise JudgeError(f"not the identity of a judge: {data!r:.120}")
    for name, value in data.items():
        if type(value).__name__ != kinds[name]:
            raise JudgeError(f"not the identity of a judge: {name} is {value!r:.80}")
    return JudgeIdentity(**data)


def differing_fields(one: JudgeIdentity, other: JudgeIdentity) -> tuple[str, ...]:
    """Name the fields in which two judges differ."""
    return tuple(
        field.name
        for field in dataclasses.fields(JudgeIdentity)
        if getattr(one, field.name) != getattr(other, field.name)
    )
