"""What the server remembers between requests: clips it was shown, and turns it wrote.

Clients send a whole conversation every time. A clip that was shown may come back as its name. A turn that was written
here comes back as text: the ids that were sampled are put in its place, so that the conversation is the one that the
model knows, and its keys and values are found again. Forgetting costs time, never an answer.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Message, TextPart


class ClipMemory:
    """Clips by the names that clients gave them, the least recently used ones dropped beyond a budget.

    Args:
        budget: bytes of frames.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held = 0
        self._clips: OrderedDict[str, Clip] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, name: str, clip: Clip) -> None:
        """Keep a clip, in the place of another one of that name."""
        with self._lock:
            self._drop(name)
            self._clips[name] = clip
            self._held += clip.frames.nbytes
            while self._clips and self._held > self._budget:
                self._drop(next(iter(self._clips)))

    def get(self, name: str) -> Clip | None:
        """Return the clip of a name, ``None`` if it is not known or forgotten."""
        with self._lock:
            if name in self._clips:
                self._clips.move_to_end(name)
            return self._clips.get(name)

    def _drop(self, name: str) -> None:
        clip = self._clips.pop(name, None)
        self._held -= clip.frames.nbytes if clip else 0


class TurnMemory:
    """Ids that were sampled, by conversation and text; the oldest turns are dropped.

    Args:
        most: turns to remember.
    """

    def __init__(self, most: int = 16_384) -> None:
        self._most = most
        self._turns: OrderedDict[tuple[str, str], tuple[int, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, conversation: str, text: str, ids: Sequence[int]) -> None:
        """Remember a turn.

        Args:
            conversation: digest of what was said before it (:func:`digest`).
            text: as clients were told it.
            ids: as they were sampled.
        """
        with self._lock:
            self._turns[conversation, text] = tuple(ids)
            self._turns.move_to_end((conversation, text))
            while len(self._turns) > self._most:
                self._turns.popitem(last=False)

    def get(self, conversation: str, text: str) -> tuple[int, ...] | None:
        """Return the ids of a turn, ``None`` if it was not written here or is forgotten."""
        with self._lock:
            return self._turns.get((conversation, text))


def digest(before: str, entry: Message | AssistantTurn) -> str:
    """Return the digest of a conversation that goes on.

    Args:
        before: digest of what was said so far, ``""`` at its beginning.
        entry: what is said next; every pixel, time, word and sampled id of it counts.
    """
    state = hashlib.sha256(before.encode())
    if isinstance(entry, AssistantTurn):
        state.update(b"assistant")
        state.update(repr(entry.generation.token_ids).encode())
        return state.hexdigest()
    state.update(entry.role.encode())
    for part in entry.parts:
        if isinstance(part, TextPart):
            text = part.text.encode()
            state.update(b"text %d " % len(text) + text)
        else:
            frames = part.clip.frames
            state.update(f"clip {frames.shape} {part.clip.timestamps}".encode())
            state.update(frames.data if frames.flags.c_contiguous else frames.tobytes())
    return state.hexdigest()
