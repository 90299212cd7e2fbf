"""What is thought of a nano video that is looked at twice: as a whole, then through a clip that somebody chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vital_eval.nano.world import Event, NanoVideo
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.span import Span, Window

from .curation import Said
from .mtvr.records import RlRecord
from .nano_dialogues import Scene, look, whole_seconds

#: Share of demonstrations whose answer repeats the bracket of its first thought, as by a writer who does not think on
#: and does not trust the clip that was called for: the imperfection that imitation takes over and reward can see.
HASTY = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class ClipWords:
    """Words for a clip that the view did not choose: the timeline of either look, then what follows from it.

    Attributes:
        video: what is looked at.
        event: what is asked for.
        windows: the right answer.
        rng: draws the noise of the pixels and whether the answer is hasty; every call draws on.
    """

    video: NanoVideo
    event: Event
    windows: Sequence[Window]
    rng: np.random.Generator

    def __call__(self, record: RlRecord, clip: Span) -> Said:
        """See :data:`~.curation.Writer`.

        Raises:
            NotVisibleError: if the view or the clip does not show the moment.
        """
        del record
        protocol = preset("nano", Mode.TOOL, "")
        wide = look(self.video, None, protocol.view, self.rng)
        close = look(self.video, clip, protocol.clip_view, self.rng)
        (first, *_), (last, *_) = wide.sightings(self.event.colour), close.sightings(self.event.colour)
        return Said(
            first_thought=f"{_timeline(wide)}. {self.event.name} {first.span}",
            last_thought=f"{_timeline(close)}. {self.event.name} {last.span}",
            answer=first.span if self.rng.random() < HASTY else whole_seconds(self.windows),
        )


def _timeline(scene: Scene) -> str:
    return ",".join(f" {sighting.event.name} {sighting.span}" for sighting in scene.timeline())
