"""Training curves: what the logs of stages say over their steps, as one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.errors import VitalError

from .step_log import LoggedStep, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over steps.

    Attributes:
        title: what it is, with its unit.
        name: as in :class:`~.step_log.LoggedStep`.
        share: it lies in [0, 1], and the axis shows all of that.
    """

    title: str
    name: str
    share: bool = False


#: What is drawn, in this order, where a log has it.
PANELS = (
    Panel("Reward", "reward"),
    Panel("Task reward", "task", share=True),
    Panel("Format reward", "format", share=True),
    Panel("Tool calls a rollout", "calls"),
    Panel("Entropy (nats a token)", "loss/entropy"),
    Panel("KL to the reference (nats a token)", "loss/kl"),
    Panel("Tokens (of a rollout, or of a supervised step)", "tokens"),
    Panel("Rollouts cut at the token limit", "truncated", share=True),
    Panel("Rollouts that loop", "looping", share=True),
    Panel("Surprise (nats a token)", "loss/surprise"),
    Panel("Loss (nats a token)", "loss"),
    Panel("Learning rate", "rate"),
    Panel("Norm of the gradient", "gradient"),
)

_COLUMNS, _WIDTH, _HEIGHT, _DPI = 3, 3.6, 2.5, 150
#: Okabe and Ito's colours without yellow, which is too light for thin lines on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#666666"


def draw_curves(logs: Mapping[str, Path], path: Path) -> Path | None:
    """Draw the curves of stages as a PNG (150 dpi); equal logs give equal files.

    Every step is a faint point. The line is the mean over a twentieth of the steps around it (see :func:`smooth`), so
    that a trend can be told from noise; the points show what it hides.

    Args:
        logs: ``<stage>.jsonl`` by the name in the legend: one stage, or several that are to be compared.
        path: the PNG; its folder is made.

    Returns:
        ``path``, or ``None`` if no log holds a step.

    Raises:
        VitalError: if a log cannot be read or the picture not be written.
    """
    curves = {label: read_log(log) for label, log in logs.items()}
    curves = {label: steps for label, steps in curves.items() if steps}
    panels = [
        panel
        for panel in PANELS
        if any(math.isfinite(entry.values.get(panel.name, math.nan)) for steps in curves.values() for entry in steps)
    ]
    if not panels:
        return None
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Whatever the reader's own settings are; the font comes with matplotlib.
    settings = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with mpl.rc_context(settings | {"font.size": 8}):
        columns = min(_COLUMNS, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows + 0.4), layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
        for place, axes in enumerate(places):
            if place < len(panels):
                _draw(axes, panels[place], curves)
                # Shared axes hide the numbers of all rows but the last, whose place may be empty.
                axes.tick_params(labelbottom=place + columns >= len(panels))
                axes.set_xlabel("step" if place + columns >= len(panels) else "")
            else:
                axes.remove()
        if len(curves) > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            legend = figure.legend(
                handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False
            )
            for text in legend.get_texts():
                # A $ in a name is a $, not the beginning of a formula.
                text.set_parse_math(False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})
        except OSError as error:
            raise VitalError(f"cannot write {path}: {error}", "choose a folder that can be written") from error
    return path


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of the finite values in a window of ``width`` around each place; at the ends it is narrower.

    The window is symmetric at every place, so that a straight line stays what it is. NaN where nothing is finite.
    """
    found = []
    for place in range(len(values)):
        reach = min((width - 1) // 2, place, len(values) - 1 - place)
        near = [value for value in values[place - reach : place + reach + 1] if math.isfinite(value)]
        found.append(math.fsum(near) / len(near) if near else math.nan)
    return found


def _draw(axes: Axes, panel: Panel, curves: Mapping[str, Sequence[LoggedStep]]) -> None:
    for number, (label, steps) in enumerate(curves.items()):
        places = [entry.step + 1 for entry in steps]
        values = [entry.values.get(panel.name, math.nan) for entry in steps]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(places, values, ".", color=colour, markersize=3, alpha=0.45, markeredgewidth=0)
        axes.plot(places, smooth(values, len(values) // 20 | 1), color=colour, linewidth=1.3, label=label)
    axes.set_title(panel.title, fontsize=8, loc="left")
    if panel.share:
        axes.set_ylim(-0.04, 1.04)
    axes.locator_params(axis="x", integer=True)
    axes.ticklabel_format(axis="y", scilimits=(-4, 5), useOffset=False)
    axes.grid(color=_GREY, alpha=0.2, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
