"""From a trajectory to the record of it: what runs and ``rescore`` share."""

from __future__ import annotations

from types import TracebackType

from vital_eval.errors import VitalError
from vital_eval.outcome import grade
from vital_eval.protocol import Protocol
from vital_eval.record import Record
from vital_eval.sample import Sample
from vital_eval.task import Task
from vital_eval.trajectory import Trajectory


def make_record(task: Task, sample: Sample, protocol: Protocol, attempt: int, trajectory: Trajectory) -> Record:
    """Grade a trajectory and make the record of it; runs and ``rescore`` both do it here.

    Raises:
        VitalError: if the task's parser or scorer raises: that is a bug, and the sample is named.
    """
    with _BugIn(task, sample):
        graded = grade(task, sample, trajectory)
        strata = {metric.name: task.strata(metric, sample) for metric in task.metrics}
        return Record(
            task=task.name,
            mode=protocol.mode,
            protocol=protocol.hash,
            sample_id=sample.id,
            attempt=attempt,
            cluster=sample.cluster,
            outcome=graded.outcome,
            reason=graded.reason,
            answer=graded.answer,
            scores=graded.scores,
            trajectory=trajectory,
            strata={name: path for name, path in strata.items() if path},
            attributes=sample.attributes,
        )


class _BugIn:
    """Turns any exception of a task's own code into one that names the sample; the cause stays attached."""

    def __init__(self, task: Task, sample: Sample) -> None:
        self._task, self._sample = task, sample

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            raise VitalError(
                f"task {self._task.name} cannot grade sample {self._sample.id!r}: {type(error).__name__}: {error}",
                "this is a bug in the task, see it with --debug; finished samples are kept",
            ) from error
