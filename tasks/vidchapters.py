"""VidChapters-7M chapter grounding, test split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

from vital_eval.sample import Sample, Target
from vital_eval.span import Window

from .annotations import Record, checked, read_lines, video_path
from .moment_retrieval import MomentRetrieval

_FILE = "chapters_vmr_test.json"
_TRAINING_FILE = "chapters_vmr_train.json"
#: The training split holds millions of chapters; so many videos, the first ones of the file, settle a prior.
_TRAINING_VIDEOS = 20_000
_YOUTUBE_ID_LENGTH = 11


class VidChapters(MomentRetrieval):
    """Find a chapter by its title: JSON Lines as written by the official ``chapters_to_vmr.py``.

    The duration is truncated to whole seconds there, so a last chapter may end up to a second after it.
    """

    name: ClassVar[str] = "vidchapters"
    title: ClassVar[str] = "VidChapters-7M"

    def annotation_files(self) -> tuple[str, ...]:
        """Return the test file."""
        return (_FILE,)

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the test chapters."""
        return checked(self._chapters(folder), folder)

    def training_moments(self, folder: Path) -> tuple[tuple[Window, float], ...]:
        """Read the windows of the first training videos, if the converter's training file lies beside the test file."""
        path = folder / _TRAINING_FILE
        if not path.is_file():
            return ()
        # A row of the training file is a whole video: "query" and "relevant_windows" are lists of equal length.
        rows = islice(read_lines(path), _TRAINING_VIDEOS)
        return tuple((window, row.duration()) for row in rows for window in row.windows("relevant_windows"))

    def _chapters(self, folder: Path) -> Iterator[Sample]:
        for row in read_lines(folder / _FILE):
            windows = row.windows("relevant_windows")
            if len(windows) != 1:
                raise row.fault(f"a test row holds one chapter, got {len(windows)} windows")
            video = _youtube_id(row)
            yield Sample(
                id=row.key("qid"),
                task=self.name,
                video=video_path(row, f"{video}.mp4"),
                duration=row.duration(),
                question=row.text("query"),
                target=Target(windows=windows),
                cluster=video,
            )


def _youtube_id(row: Record) -> str:
    # In val and test files "vid" is a running number followed by the YouTube id, which may start with a digit itself.
    vid = row.text("vid")
    counter, video = vid[:-_YOUTUBE_ID_LENGTH], vid[-_YOUTUBE_ID_LENGTH:]
    if len(video) < _YOUTUBE_ID_LENGTH or not (counter == "" or counter.isdecimal()):
        raise row.fault(f"field 'vid' must be a number followed by an 11-character YouTube id, got {vid!r:.60}")
    return video
