"""Is the model behind a server still the one that a run began with?

Requests are sent again while a server is away, so a run outlives its restart. What comes up may hold other weights.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vital_eval.chat_server import ChatServer

MODELS = "/models"
#: What a server lists of a model that lasts while it is the same. vLLM's ``created`` is the time of asking.
_LASTING = ("id", "fingerprint", "root", "max_model_len", "owned_by")
#: A server behind a proxy may be exchanged without any trouble to be seen.
_EVERY_SECONDS = 60.0


class Identity:
    """What is known of the model of a run.

    Args:
        server: where it is.
        listed: its entry in the server's list of models.
    """

    def __init__(self, server: ChatServer, listed: dict[str, Any]) -> None:
        self._server = server
        self._listed = _lasting(listed)
        self._asked = (server.troubles, time.monotonic())
        self._replied: object = None

    async def check(self, reply: dict[str, Any]) -> None:
        """Compare a reply with what is known; now and then, and after any trouble, also what the server lists.

        Raises:
            ValueError: if it comes from another model; says which.
            RequestFailure: if the server cannot be asked.
        """
        name, fingerprint = reply.get("model"), reply.get("system_fingerprint")
        self._replied = self._replied or name
        if name != self._replied:
            raise ValueError(f"it comes from another model than before: {name!r:.80}, not {self._replied!r:.80}")
        if "fingerprint" in self._listed and fingerprint != self._listed["fingerprint"]:
            raise ValueError(f"it comes from other weights than before: {fingerprint!r:.80}")
        troubles, now = self._server.troubles, time.monotonic()
        if troubles != self._asked[0] or now - self._asked[1] > _EVERY_SECONDS:
            await self._ask_again()
            self._asked = (troubles, now)

    async def _ask_again(self) -> None:
        entries = listed_models(await self._server.send(MODELS))
        now = next((_lasting(entry) for entry in entries if entry["id"] == self._listed["id"]), None)
        if now != self._listed:
            raise ValueError(f"the server has another model now: {now}, not {self._listed}")


def listed_models(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of a server's list of models that have a name."""
    data = body.get("data")
    return [entry for entry in data if isinstance(entry, dict) and entry.get("id")] if isinstance(data, list) else []


def _lasting(listed: dict[str, Any]) -> dict[str, Any]:
    return {name: listed[name] for name in _LASTING if name in listed}
