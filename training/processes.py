"""One step of training spread over several processes, each with a whole copy of the weights.

Every process draws the same problems and plays its own share of them, whole groups at a time. The loss of each
micro-batch is its share of the loss of the whole step: its denominator counts tokens and rollouts over all processes.
So gradients are added up, not averaged, and what is added is the gradient of the same step taken in one process. The
draws of a rollout follow from its problem and number alone, so the number of processes moves no rollout either.

Supervised steps are shared out likewise, lesson by lesson, and so is the playing of records before them.

``torchrun`` and ``accelerate launch`` both start the processes; without them there is one, and nothing here speaks to
anybody.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from vital_eval.errors import VitalError

from .policy_loss import LossMetrics, Normaliser, summed

Item = TypeVar("Item")

#: How long a process waits at a barrier: in truth for ever, because a launcher ends all processes if one fails.
_FOREVER = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that train together, as one of them sees them. All of them must make the same calls in order.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        waiting: the group that barriers wait in, made by :func:`joined`; ``None`` for a single process.

    Raises:
        ValueError: if there is no such process.
    """

    rank: int = 0
    world: int = 1
    waiting: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a rank outside the world."""
        if not 0 <= self.rank < self.world:
            raise ValueError(f"there is no process {self.rank} among {self.world}")

    @property
    def first(self) -> bool:
        """Tell whether this process writes: plans, data, states, checkpoints, logs, runs, tables."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """Return the items of this process: every world-th, so that shares differ by one item at most.

        Share out problems, not rollouts: a group must stay whole. A share may be empty.

        Args:
            items: the same in every process.
        """
        return tuple(items[self.rank :: self.world])

    def gather(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """Return the items of all processes in every process, those of process 0 first.

        Args:
            items: small and picklable: rewards and counts, not tensors of a model.
        """
        return tuple(item for part in self._everyone(tuple(items)) for item in part)

    def sum(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the sums over all processes, rounded once.

        Raises:
            ValueError: if the processes bring different numbers of values.
        """
        return tuple(math.fsum(column) for column in zip(*self._everyone(tuple(values)), strict=True))

    def whole(self, tokens: int, sequences: int) -> Normaliser | None:
        """Return what the step holds over all processes; ``None`` if there is no token to train in any of them.

        Args:
            tokens: trained tokens of this process; 0 if it has none.
            sequences: its rollouts.
        """
        all_tokens, all_sequences = (int(value) for value in self.sum((tokens, sequences)))
        return Normaliser(all_tokens, all_sequences) if all_tokens else None

    def summed(self, parts: Iterable[LossMetrics]) -> LossMetrics:
        """Return the loss metrics of the step from those of every process's micro-batches, none in some of them."""
        nothing = LossMetrics(*([0.0] * len(fields(LossMetrics))))
        return LossMetrics(*self.sum(astuple(summed((nothing, *parts)))))

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place.

        A parameter that was used nowhere keeps no gradient, so that the optimiser leaves it alone as it would in one
        process. One that was used somewhere (the vision part, where only one process saw a video) has one everywhere.

        Args:
            parameters: the same in every process, in the same order.
        """
        if self.world == 1:
            return
        every = [parameter for parameter in parameters if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in every], dtype=torch.int32)
        dist.all_reduce(used, op=dist.ReduceOp.MAX)
        pending = []
        for parameter, wanted in zip(every, used.tolist(), strict=True):
            if not wanted:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in pending:
            work.wait()

    def adamw(
        self,
        parameters: Iterable[torch.nn.Parameter],
        rate: float,
        weight_decay: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        sharded: bool = True,
    ) -> torch.optim.Optimizer:
        """Return AdamW, which takes the same steps however many processes there are.

        Args:
            parameters: the same in every process, in the same order.
            rate: learning rate.
            weight_decay: AdamW's.
            betas: AdamW's.
            sharded: every process keeps the two moments of its share of the weights only and tells the others what
                became of them; before its state is saved, see :meth:`collect_state`. A single one keeps all.
        """
        if not sharded or self.world == 1:
            return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=weight_decay)
        # Here, because importing it compiles what one process never needs.
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(parameters, torch.optim.AdamW, lr=rate, betas=betas, weight_decay=weight_decay)

    def collect_state(self, optimiser: torch.optim.Optimizer) -> None:
        """Bring the parts of a sharded optimiser's state to the first process, which then may save it."""
        if self.world == 1:
            return
        from torch.distributed.optim import ZeroRedundancyOptimizer

        if isinstance(optimiser, ZeroRedundancyOptimizer):
            optimiser.consolidate_state_dict(to=0)

    def require_whole_groups(self, groups: Iterable[Hashable]) -> None:
        """Refuse a group with rollouts in more than one process: its mean and spread would be those of a part.

        Args:
            groups: of the rollouts of this process.

        Raises:
            ValueError: in every process, naming a group that is split.
        """
        owners: dict[Hashable, int] = {}
        for rank, part in enumerate(self._everyone(tuple(dict.fromkeys(groups)))):
            for group in part:
                owner = owners.setdefault(group, rank)
                if owner != rank:
                    raise ValueError(f"group {group!r} is split over processes {owner} and {rank}; share out problems")

    def require_same(self, value: object, name: str) -> None:
        """Refuse to go on where processes disagree: on the step they resume at, on the problems, on the weights.

        Args:
            value: small and picklable; for weights see :func:`fingerprint`.
            name: what it is, for the message.

        Raises:
            VitalError: in every process.
        """
        values = self._everyone(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise VitalError(
                    f"process {rank} has {name} {other}, process 0 has {values[0]}",
                    "give every process the same files and settings; the output folder must be one they all see",
                )

    def barrier(self) -> None:
        """Wait for all processes, however long it takes: the first may be scoring a checkpoint for hours."""
        if self.world > 1:
            dist.barrier(self.waiting)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let the first process finish the block before the others begin it; they find what it wrote."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()

    def _everyone(self, value: Item) -> list[Item]:
        if self.world == 1:
            return [value]
        values: list[Item] = [value] * self.world
        dist.all_gather_object(values, value)
        return values


def fingerprint(parameters: Iterable[torch.nn.Parameter]) -> float:
    """Return one number that equal weights share, for :meth:`Processes.require_same`; sums in float64."""
    return sum(float(parameter.detach().double().abs().sum()) for parameter in parameters)


def local_device() -> str:
    """Return the device of this process: the GPU of its number on this machine, or the CPU if there is no GPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


@contextmanager
def joined(device: str, patience: timedelta = timedelta(hours=2)) -> Iterator[Processes]:
    """Join the processes that were started together and leave them at the end.

    Reads ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``, which ``torchrun`` and ``accelerate launch``
    set. If a process fails, the launcher ends the others.

    Args:
        device: of this process's model, see :func:`local_device`.
        patience: how long to wait for the slowest process within a step; the rollouts of one may take much longer
            than another's. Barriers wait without end.

    Raises:
        VitalError: if the environment says that there are several processes, but not how to find them.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Processes()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise VitalError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set",
            "start with torchrun or accelerate launch, or unset WORLD_SIZE",
        )
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    # Counts and rewards go over gloo in either case; only gradients are on the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=patience)
    try:
        # A barrier of its own group: over gloo, so that no GPU spins while it waits, and with its own time limit.
        waiting = dist.new_group(backend="gloo", timeout=_FOREVER)
        yield Processes(dist.get_rank(), dist.get_world_size(), waiting)
    finally:
        dist.destroy_process_group()
