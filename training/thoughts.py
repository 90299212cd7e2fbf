"""Who writes the words of tool dialogues: a file of thoughts for real videos, a template for nano ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vital_eval.errors import DataError
from vital_eval.record import loads_strictly
from vital_eval.span import Span

from .curation import Said
from .mtvr.records import RlRecord
from .nano_looks import ClipWords
from .nano_mtvr import nano_video

_FIELDS = ("id", "look", "answer")
#: Third word of the key of a view's pixel noise, apart from those of the videos.
_NOISE_STREAM = 7


@dataclass(frozen=True, slots=True)
class Thoughts:
    """What somebody thought about records.

    Attributes:
        by_id: id of a record to why the clip is looked at, and what it shows.
    """

    by_id: Mapping[str, tuple[str, str]]

    def __call__(self, record: RlRecord, clip: Span) -> Said:
        """See :data:`~.curation.Writer`; the answer is the right span with two decimals.

        Raises:
            DataError: if the record has no thoughts or no span.
        """
        del clip
        if record.id not in self.by_id:
            raise DataError(f"record {record.id} has no thoughts", "add a line for it to the file of --thoughts")
        if isinstance(record.solution, str):
            raise DataError(f"record {record.id} asks for no moment", "leave it out")
        first, last = self.by_id[record.id]
        start, end = record.solution
        return Said(first, last, f"{start:.2f} to {end:.2f}")


def read_thoughts(path: Path) -> Thoughts:
    """Read JSON Lines with the fields ``id``, ``look`` (the first thought) and ``answer`` (the thought before it).

    Raises:
        DataError: if the file cannot be read, a line is something else, or an id stands twice.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the path given with --thoughts") from error
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            content = loads_strictly(line)
        except ValueError as error:
            raise DataError(f"{place} is not JSON ({error})", "write one object a line") from error
        if not isinstance(content, dict) or set(content) != set(_FIELDS):
            raise DataError(f"{place} must be an object with {', '.join(_FIELDS)} and nothing else", "mend the line")
        for name in _FIELDS:
            if not isinstance(content[name], str) or not content[name].strip():
                raise DataError(f"{place}: {name} must be a text, got {content[name]!r:.60}", "mend the line")
        if content["id"] in found:
            raise DataError(f"{place}: record {content['id']!r:.80} stands twice", "leave one of the lines out")
        found[content["id"]] = (content["look"], content["answer"])
    if not found:
        raise DataError(f"{path} holds no thoughts", "write one object a line")
    return Thoughts(found)


class NanoThoughts:
    """The template: the timeline that each view shows, then what follows from it.

    A nano record's id says how its video was drawn, so what it shows is known without looking at pixels.
    """

    def __call__(self, record: RlRecord, clip: Span) -> Said:
        """See :data:`~.curation.Writer`.

        Raises:
            DataError: if the record is not nano's.
            NotVisibleError: if the view or the clip does not show the moment.
        """
        video = nano_video(record)
        event = next((event for event in video.events if event.window == record.solution), None) if video else None
        if video is None or event is None:
            raise DataError(f"record {record.id} is no nano record with a moment", "give thoughts with --thoughts")
        rng = np.random.default_rng([_NOISE_STREAM, *record.id.encode()])
        return ClipWords(video, event, (event.window,), rng)(record, clip)


def are_nano(records: Sequence[RlRecord]) -> bool:
    """Tell whether the first record is nano's; a mixture fails at the first other one."""
    return bool(records) and nano_video(records[0]) is not None
