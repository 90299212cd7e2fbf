"""What of a model is trained: a frozen vision tower, and low-rank adapters that are merged back into plain weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from vital_eval.errors import CheckpointError, MissingExtraError, VitalError

_NAME = "vital"


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters on the language model (Hu et al., 2021). There is no dropout: training draws nothing.

    Attributes:
        rank: rank of every adapter.
        alpha: adapters are scaled by alpha / rank.
        targets: names of the linear layers that get one; the vision tower never does.

    Raises:
        ValueError: if a number is not positive or there is no target.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        """Refuse adapters that adapt nothing."""
        if self.rank < 1 or not self.alpha > 0 or not self.targets:
            raise ValueError(f"impossible adapters {self}")


@dataclass(frozen=True, slots=True, eq=False)
class Adapters:
    """Adapters that are part of a model.

    Attributes:
        trained: names of the model's parameters that are theirs; all others are frozen.
    """

    _tuner: Any
    trained: tuple[str, ...]

    def merge(self) -> None:
        """Add the adapters to the weights below them and take them out: the model is a plain one again.

        Raises:
            ValueError: if a merged weight is not finite.
        """
        self._take_out(self._tuner.merge_and_unload(progressbar=False, safe_merge=True))

    def discard(self) -> None:
        """Take the adapters out: the model is as it was before."""
        self._take_out(self._tuner.unload())

    def _take_out(self, model: PreTrainedModel) -> None:
        # Left behind, it would make the model look adapted to whoever saves or adapts it next.
        if hasattr(model, "peft_config"):
            del model.peft_config


def add_lora(model: PreTrainedModel, settings: LoraSettings, seed: int) -> Adapters:
    """Put adapters into a model, in place, and freeze everything else; what it computes does not change yet.

    Args:
        model: of a family whose language model is its module ``language_model``.
        settings: see :class:`LoraSettings`.
        seed: of the adapters' first weights.

    Raises:
        MissingExtraError: if peft is not installed.
        CheckpointError: if the model has none of the target layers.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise MissingExtraError("LoRA needs peft, which is not installed", "pip install 'vital-eval[lora]'") from error
    endings = "|".join(re.escape(target) for target in settings.targets)
    pattern = rf"(?:.*\.)?language_model\..*\.(?:{endings})"
    if not any(re.fullmatch(pattern, name) for name, _ in model.named_modules()):
        raise CheckpointError(
            f"the language model has no layer named {' or '.join(settings.targets)}", "name others as LoRA targets"
        )
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=pattern)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuner = LoraModel(model, {_NAME: config}, _NAME)
    return Adapters(tuner, trained_names(model))


def freeze_vision(model: PreTrainedModel) -> tuple[str, ...]:
    """Freeze the vision tower, the model's own module ``visual``, what merges its patches included.

    Returns:
        The names of the parameters that were trained before and no longer are.

    Raises:
        CheckpointError: if the model has no such module, or more than one.
    """
    towers = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "visual"]
    if len(towers) != 1:
        raise CheckpointError(
            f"{type(model).__name__} has {len(towers)} modules named visual", "train its vision tower too"
        )
    frozen = tuple(name for name in trained_names(model) if name.startswith(f"{towers[0]}."))
    set_trained(model, set(trained_names(model)) - set(frozen))
    return frozen


def trained_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of the parameters that need a gradient."""
    return tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def set_trained(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Train exactly these parameters."""
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
        if name not in wanted:
            parameter.grad = None


def require_full_precision(model: PreTrainedModel, stage: str) -> None:
    """Refuse to train weights of a type in which small steps vanish; float64 is for tests that want no rounding.

    Raises:
        VitalError: naming the first one.
    """
    fine = (torch.float32, torch.float64)
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype not in fine]
    if wrong:
        raise VitalError(
            f"stage {stage}: {wrong[0]} and {len(wrong) - 1} others are not float32",
            "load the model in float32, because small steps are lost in other types; the forward pass has its own",
        )


def require_finite(model: PreTrainedModel, where: str) -> None:
    """Refuse to keep weights that are no numbers: nothing that is trained from them could be.

    Raises:
        VitalError: naming the first one.
    """
    wrong = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if wrong:
        raise VitalError(
            f"{where}: {wrong[0]} and {len(wrong) - 1} other weights are not finite",
            "lower the rate; the same command goes on from the last saved state",
        )
