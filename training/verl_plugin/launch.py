"""Start a stage with verl: ``python -m vital_eval.training.verl_plugin.launch --stage 4 ...``.

With ``--dry-run`` nothing is written or started: the command, the files and verl's composed configuration are printed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.errors import VitalError

from .names import ESTIMATOR, REGISTRATION
from .stages import STAGES, Job, read_extra


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run.

    Returns:
        The exit status: 2 for a mistake of the user's, otherwise that of verl.
    """
    try:
        return _run(_parser().parse_args(arguments))
    except VitalError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def composed(job: Job) -> Any:
    """Return verl's configuration of a job, checked by verl's own validation for reinforced stages.

    Raises:
        hydra.errors.HydraException: if verl has no such setting.
        ValueError: if verl refuses the settings (AssertionError where it asserts).
    """
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(job.stage.config_name, overrides=job.command("python")[_arguments_from(job) :])
    if job.stage.reinforced:
        from verl.trainer.ppo.core_algos import get_adv_estimator_fn
        from verl.trainer.ppo.utils import need_critic, need_reference_policy
        from verl.utils.config import validate_config

        from . import registration

        del registration
        get_adv_estimator_fn(ESTIMATOR)
        validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    return config


def _arguments_from(job: Job) -> int:
    """Return where verl's own arguments begin in the command."""
    return job.command("python").index(job.stage.module) + 1


def _run(given: argparse.Namespace) -> int:
    pixels = open_checkpoint(given.model).pixels
    stage = STAGES[given.stage]
    job = Job(
        stage=stage,
        model=given.model.resolve(),
        train=tuple(path.resolve() for path in given.train),
        validation=tuple(path.resolve() for path in given.validation),
        media_root=given.media_root.resolve(),
        output=given.output.resolve(),
        spatial_factor=pixels.patch * pixels.merge,
        nodes=given.nodes or stage.nodes,
        gpus=given.gpus,
        extra=read_extra(given.set),
    )
    command = job.command(sys.executable)
    if given.dry_run:
        return _show(job, command)
    for path, text in job.files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    environment = {**os.environ, **_environment(job)}
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - a list, no shell


def _environment(job: Job) -> dict[str, str]:
    return {"VERL_USE_EXTERNAL_MODULES": REGISTRATION} if job.stage.reinforced else {}


def _show(job: Job, command: Sequence[str]) -> int:
    from omegaconf import OmegaConf

    out = sys.stdout.write
    variables = "".join(f"{name}={value} " for name, value in _environment(job).items())
    out(f"# command\n{variables}{shlex.join(command)}\n")
    for path, text in job.files().items():
        out(f"\n# {path}\n{text}")
    out(f"\n# configuration, composed by verl\n{OmegaConf.to_yaml(composed(job))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vital_eval.training.verl_plugin.launch", description=__doc__)
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), required=True)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="parquet files")
    parser.add_argument("--validation", type=Path, nargs="*", default=[], help="parquet files")
    parser.add_argument("--media-root", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the run's files")
    parser.add_argument("--nodes", type=int, default=None, help="machines (1 or 2 by the stage)")
    parser.add_argument("--gpus", type=int, default=8, help="devices a machine")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="further settings of verl")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and start nothing")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
