"""How a run is carried out; nothing here may move a score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vital_eval.video.frame_store import StoreSettings
    from vital_eval.video.worker import DecodeWorkers


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is carried out; nothing here may move a score.

    Attributes:
        concurrency: episodes under way at a time.
        decode_workers: decoding processes.
        decode_seconds: longest time one probe or read of a video may take.
        cache_bytes: bound on the clips in memory: decoded ahead, shown in episodes under way, or kept for the next
            question. A clip that is larger by itself is let in alone. Clips of tool calls are kept within it too, but
            those that an episode under way holds come on top.
        frame_store: where decoded frames are kept on disk; ``None`` keeps none.
        failures_in_a_row: stop after so many episodes in a row failed for a reason that is not the model's.
        plugins: plugin files that decoders may come from.
    """

    concurrency: int = 32
    decode_workers: int = 2
    decode_seconds: float = 120.0
    cache_bytes: int = 4 * 2**30
    frame_store: StoreSettings | None = None
    failures_in_a_row: int = 20
    plugins: tuple[Path, ...] = ()

    def make_workers(self) -> DecodeWorkers:
        """Return the decoding processes of a run; they start with their first calls, or when they are told to."""
        from vital_eval.video.worker import DecodeWorkers

        return DecodeWorkers(self.decode_workers, self.decode_seconds, self.plugins, self.frame_store)
