"""Is a video file as long as its annotation says?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vital_eval.record import Record

#: A file whose length differs from the annotated one by more than this is probably another cut, or incomplete.
TOLERANCE_SECONDS = 1.0


def differ(annotated: float | None, file_duration: float | None) -> bool:
    """Tell whether a file is too long or too short for its annotation.

    Args:
        annotated: seconds; ``None`` if the annotation does not say.
        file_duration: seconds, as probed; ``None`` if it was not.
    """
    return annotated is not None and file_duration is not None and abs(annotated - file_duration) > TOLERANCE_SECONDS


@dataclass(slots=True)
class OddLengths:
    """Notes samples about files that are not as long as annotated, while records pass by.

    Attributes:
        samples: their tasks and ids.
        example: one of them in words.
    """

    samples: set[tuple[str, str]] = field(default_factory=set)
    example: str = ""

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records as they come."""
        for record in records:
            told, found = record.trajectory.duration, record.trajectory.file_duration
            if found is not None and differ(told, found):
                self.samples.add((record.task, record.sample_id))
                self.example = (
                    f"{record.task} {record.sample_id!r}: annotated as {told:.2f} s, the file has {found:.2f} s"
                )
            yield record
