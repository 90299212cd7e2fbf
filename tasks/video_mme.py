"""Video-MME: multiple choice on short, medium and long videos, with or without subtitles."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.sample import Sample, Target
from vital_eval.task import Answer, Metric, Scores

from .annotations import Record, checked, read_hub_rows, video_path
from .multiple_choice import MultipleChoice, accuracy

_BUCKETS = ("short", "medium", "long")
_SOURCE = "Video-MME"


class VideoMME(MultipleChoice):
    """Video-MME test: the hub's table; ``duration`` there is a bucket, so the length comes from the video itself.

    Subtitles lie in ``subtitle/<videoID>.srt`` beside the table; not every video has them.
    """

    name: ClassVar[str] = "video_mme"
    title: ClassVar[str] = "Video-MME"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("Accuracy", "accuracy", f"accuracy over all questions; {_SOURCE}"),
        *(Metric(bucket.capitalize(), bucket, f"accuracy on {bucket} videos; {_SOURCE}") for bucket in _BUCKETS),
    )
    primary: ClassVar[str] = "Accuracy"
    scorer_version: ClassVar[int] = 2

    def annotation_files(self) -> tuple[str, ...]:
        """Return the two forms of the hub's test table; the first that is there is read."""
        return ("test.jsonl", "test.parquet")

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the test questions."""
        return checked((self._question(row) for row in read_hub_rows(folder, "test")), folder)

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score under the overall figure and under the video's bucket."""
        value = accuracy(answer, sample)
        own = sample.attributes["duration_category"]
        return {"accuracy": value} | {bucket: value if bucket == own else None for bucket in _BUCKETS}

    def subtitles(self, sample: Sample) -> str:
        """Return where the hub's archive of subtitles has the file of this video."""
        return f"subtitle/{sample.cluster}.srt"

    def _question(self, row: Record) -> Sample:
        bucket, video = row.text("duration"), row.text("videoID")
        if bucket not in _BUCKETS:
            raise row.fault(f"field 'duration' must be short, medium or long, got {bucket!r:.60}")
        options = row.options("options")
        return Sample(
            id=row.key("question_id"),
            task=self.name,
            video=video_path(row, f"{video}.mp4"),
            duration=None,
            question=row.text("question"),
            options=options,
            target=Target(letter=row.letter("answer", options)),
            cluster=video,
            attributes={
                "duration_category": bucket,
                "domain": row.text("domain"),
                "sub_category": row.text("sub_category"),
                "task_type": row.text("task_type"),
            },
        )
