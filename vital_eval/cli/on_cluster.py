"""``run --ray``: puts the crew of a run together from the options."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from vital_eval.cli.output import complain
from vital_eval.errors import MissingExtraError, VitalError

if TYPE_CHECKING:
    from vital_eval.cluster.crew import Crew
    from vital_eval.plan import RunPlan
    from vital_eval.settings import Settings


def check_ray_options(options: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything is read.

    Raises:
        VitalError: if an option of a cluster is given without one.
        MissingExtraError: if Ray is not installed.
    """
    if options.ray is None:
        given = [name for name in ("ray_workers", "ray_gpus") if getattr(options, name) is not None]
        if given:
            raise VitalError(f"--{given[0].replace('_', '-')} without --ray", "add --ray local or --ray ADDRESS")
        return
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise MissingExtraError("--ray needs the module 'ray', which is not installed", "install vital-eval[ray]")


def ray_crew(options: argparse.Namespace, plan: RunPlan, settings: Settings, texts: list[str]) -> Crew:
    """Join or start a cluster and return the crew that will play there.

    Args:
        options: of ``run``.
        plan: what the run consists of.
        settings: how the run is carried out.
        texts: ``NAME=VALUE``, the engine's own options.

    Raises:
        ClusterError: if there is no such cluster, or it does not start.
    """
    from vital_eval.cluster.crew import Crew
    from vital_eval.cluster.places import Needs, default_gpus, share
    from vital_eval.cluster.ray_cluster import LOCAL, RayCluster, connect, nodes
    from vital_eval.cluster.worker import EngineChoice

    plan, settings = _everywhere(plan), _with_whole_paths(settings)
    without = options.ray_gpus == 0 or options.base_url is not None or options.device.startswith("cpu")
    connect(options.ray, gpus=not without)
    found = nodes()
    gpus = 0.0 if without else default_gpus(found) if options.ray_gpus is None else options.ray_gpus
    needs = Needs(1 + settings.decode_workers, gpus)
    if options.ray == LOCAL:
        needs = share(found[0], needs, options.ray_workers)
    checkpoint = None if options.checkpoint is None else options.checkpoint.absolute()
    choice = EngineChoice(options.engine, checkpoint, options.device, options.dtype, options.batch_size, tuple(texts))
    return Crew(RayCluster(choice, settings, plan, needs), plan, needs, settings, complain, options.ray_workers)


def _everywhere(plan: RunPlan) -> RunPlan:
    """Return the plan with paths that do not depend on the folder a process runs in."""
    tasks = tuple(
        dataclasses.replace(part, data=dataclasses.replace(part.data, folder=part.data.folder.absolute()))
        for part in plan.tasks
    )
    return dataclasses.replace(plan, tasks=tasks)


def _with_whole_paths(settings: Settings) -> Settings:
    store = settings.frame_store
    return dataclasses.replace(
        settings,
        plugins=tuple(path.absolute() for path in settings.plugins),
        frame_store=None if store is None else dataclasses.replace(store, folder=store.folder.absolute()),
    )
