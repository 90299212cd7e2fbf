"""vital-eval: does thinking with videos beat text-only chain of thought?

Importing this package loads neither torch nor transformers nor pandas; the heavy parts are imported by
the modules that need them. ``ARCHITECTURE.md`` names the central types and shows how data flows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vital_eval.dataframes import RunFrames

__version__ = "0.1.0"


def load_run(path: str | Path) -> RunFrames:
    """Load a run folder as pandas data frames.

    The run may be still running; a torn last line is left out, and the folder is neither locked nor changed.

    Example:
        >>> import vital_eval
        >>> run = vital_eval.load_run("runs/mine")
        >>> columns = ["task", "mode", "sample_id", "outcome", "start", "end", "score.iou"]
        >>> answered = run.records.loc[run.records["outcome"] == "answered", columns]
        >>> by_mode = run.records.groupby(["task", "mode"], observed=True)["score.iou"].mean()
        >>> failing = run.calls.loc[~run.calls["succeeded"], ["sample_id", "error", "raw"]]

    Args:
        path: the run folder.

    Returns:
        The manifest, and a frame each of records, turns and tool calls; the columns are those of
        :class:`vital_eval.dataframes.RunFrames`.

    Raises:
        RunLogError: if ``path`` is not a run, a line before the last is damaged, or a record occurs twice.
    """
    from vital_eval import dataframes

    return dataframes.load_run(path)
