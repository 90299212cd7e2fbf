"""What a judge makes of the open answers of a run, beside what the rules make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vital_eval.judge.figures import JudgedFigure, judged_figures, read_verdicts
from vital_eval.manifest import Manifest
from vital_eval.record import Record


@dataclass(frozen=True, slots=True)
class Judged:
    """Figures of one benchmark by the rules and by a judge.

    Attributes:
        run: name of the run folder.
        label: checkpoint as shown in tables.
        figure: both numbers, and who judged.
    """

    run: str
    label: str
    figure: JudgedFigure


def read_judged(folder: Path, run: str, manifest: Manifest, records: Sequence[Record]) -> tuple[Judged, ...]:
    """Return the judged figures of a run; none if it was not judged.

    Raises:
        JudgeError: if the verdicts cannot be read or belong to other annotation files.
    """
    verdicts = read_verdicts(folder)
    if verdicts is None:
        return ()
    return tuple(Judged(run, manifest.label, figure) for figure in judged_figures(manifest, records, verdicts))
