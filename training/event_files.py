"""A stage's log as a TensorBoard event file.

The file is worked out from the log alone, byte for byte, so it cannot drift from it: written again, it only grows by
what the log has grown, and after a resume no step is in it twice. It is appended to, never swapped, so that a
TensorBoard that is looking follows it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from vital_eval.errors import MissingExtraError, VitalError

from .step_log import LoggedStep, read_log

#: TensorBoard reads files whose name holds "tfevents".
NAME = "events.out.tfevents.0.vital-eval"


def require_tensorboard() -> None:
    """Refuse to start a training whose curves could not be written.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "event files need tensorboard, which is not installed", "pip install 'vital-eval[tensorboard]'"
        ) from error


def write_events(log: Path, folder: Path) -> Path:
    """Bring a stage's event file up to its log.

    Args:
        log: ``<stage>.jsonl``.
        folder: of this stage alone, since TensorBoard takes a folder for a run; it is made.

    Returns:
        The event file. Its times are seconds of training since the first step: they tell durations, not dates.

    Raises:
        MissingExtraError: if tensorboard is not installed.
        VitalError: if the log cannot be read or the file not be written.
    """
    content = event_bytes(read_log(log))
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = path.read_bytes() if path.is_file() else b""
        # What a killed process half wrote is a beginning of the same bytes; a log that was begun anew is not.
        grows = content.startswith(there)
        with path.open("ab" if grows else "wb") as file:
            file.write(content[len(there) :] if grows else content)
    except OSError as error:
        raise VitalError(f"cannot write {path}: {error}", "free some space, or train without event files") from error
    return path


def event_bytes(steps: Sequence[LoggedStep]) -> bytes:
    """Return the event file of these steps: a scalar for every finite number, in the order of steps and names.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """
    require_tensorboard()
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString(deterministic=True))
    spent = 0.0
    for entry in steps:
        spent += entry.values.get("seconds", 0.0)
        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in sorted(entry.values.items())
            if math.isfinite(value)
        ]
        event = Event(wall_time=spent, step=entry.step, summary=Summary(value=scalars))
        writer.write(event.SerializeToString(deterministic=True))
    return buffer.getvalue()
