"""What the stages of vital-nano brought, over several seeds of the same recipe.

    python benchmarks/nano_seeds.py runs/nano-0 runs/nano-1 runs/nano-2 --curves docs/nano

Each folder is the ``--out`` of ``vital-eval train --recipe nano`` with a seed of its own. Prints, for each pair of
checkpoints, the paired difference of every seed and of the mean over seeds (points; mean of the headline metrics of
all benchmarks, and of the grounding ones), with 95 % intervals clustered by video. With ``--curves`` the steps of
every stage are written as one small CSV a folder.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

from vital_eval.protocol import Mode
from vital_eval.statistics.means import Estimate
from vital_eval.training.ablation import ScoredItems, compare_checkpoints, mean_of_seeds, read_scored

#: Checkpoint and mode, against checkpoint and mode.
PAIRS = (
    (("1-sft", Mode.COT), ("1-direct-sft", Mode.DIRECT)),
    (("2-grpo", Mode.COT), ("2-direct-grpo", Mode.DIRECT)),
    (("2-dgrpo", Mode.COT), ("1-sft", Mode.COT)),
    (("2-dgrpo", Mode.COT), ("2-grpo", Mode.COT)),
    (("3-tool-sft", Mode.TOOL), ("2-dgrpo", Mode.COT)),
    (("4-tool-dgrpo", Mode.TOOL), ("3-tool-sft", Mode.TOOL)),
    (("4-tool-dgrpo", Mode.TOOL), ("4-tool-grpo", Mode.TOOL)),
    (("4-tool-dgrpo", Mode.TOOL), ("2-dgrpo", Mode.COT)),
)
GROUNDING = ("activitynet_mr", "charades_sta", "rextime", "vidchapters", "vue_tr")
COLUMNS = ("reward", "task", "format", "calls", "tokens", "loss", "gradient", "seconds")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--curves", type=Path, help="folder for the small logs")
    options = parser.parse_args(arguments)
    scored = [_scored(folder) for folder in options.folders]
    print("| | | all | grounding |\n|---|---|---|---|")
    for one, other in PAIRS:
        having = [sides for sides in scored if one in sides and other in sides]
        rows = [(f"seed {place}", [sides]) for place, sides in enumerate(scored) if one in sides and other in sides]
        if len(having) > 1:
            rows.append((f"mean of {len(having)}", having))
        for label, group in rows:
            ours, theirs = (mean_of_seeds([sides[side] for sides in group]) for side in (one, other))
            cells = [_text(compare_checkpoints(ours, theirs).difference)]
            cells.append(_text(compare_checkpoints(_grounding(ours), _grounding(theirs)).difference))
            print(f"| {one[0]} - {other[0]} | {label} | {' | '.join(cells)} |")
    if options.curves is not None:
        for folder in options.folders:
            _write_curves(folder, options.curves / f"{folder.name}.csv")


def _scored(folder: Path) -> dict[tuple[str, Mode], ScoredItems]:
    wanted = dict.fromkeys(side for pair in PAIRS for side in pair)
    read = [scored for name, mode in wanted if (scored := read_scored(folder, name, mode)) is not None]
    return {(scored.name, scored.mode): scored.items for scored in read if not scored.owed}


def _grounding(items: ScoredItems) -> ScoredItems:
    return {task: items[task] for task in GROUNDING if task in items}


def _text(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "-"
    return f"{100 * found.value:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _write_curves(folder: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("stage", "step", *COLUMNS))
        for log in sorted(folder.glob("*/*.jsonl")):
            if log.stem != log.parent.name:
                continue
            for line in log.read_text(encoding="utf-8").splitlines():
                step = json.loads(line)
                if isinstance(step.get("loss"), dict):
                    step["loss"] = step["loss"]["loss"]
                writer.writerow((log.stem, step["step"], *(_short(step.get(name)) for name in COLUMNS)))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


if __name__ == "__main__":
    main()
