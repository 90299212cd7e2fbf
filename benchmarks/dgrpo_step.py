"""Wall-clock time of one step of reinforcement: ours against TRL's GRPOTrainer, side by side in one process.

TRL needs an environment of its own (its torchvision must fit torch's build, or be absent):

    python -m venv trl && trl/bin/pip install -c constraints-cpu.txt \
        trl==1.16.0 accelerate==1.15.0 peft==0.21.2 datasets==5.2.0 transformers==5.23.0 torch==2.13.0
    trl/bin/pip install -c constraints-cpu.txt -e .
    OMP_NUM_THREADS=1 trl/bin/python benchmarks/dgrpo_step.py

Without TRL, ``--ours-only`` prints our side. The task has no video, because TRL's trainer would not pass it on. Both
sides get the same prompts (checked token by token), group size, length, learning rate, clip, KL weight and one
update a rollout; weights and logits are those of one checkpoint (checked). Ends of turns are never sampled, so every
rollout is exactly as long as allowed. What differs:

* Ours holds a Qwen3-VL whose vision part is idle, TRL a Qwen3 with the same language weights.
* Ours plays the harness's episodes and draws every row from a generator of its own; TRL calls ``generate``.
* Ours normalises log-probabilities over what can be sampled, TRL over the whole vocabulary.
* Ours weighs groups by difficulty and parses every turn; TRL's reward is a random number.

Printed: the median time of a step on each side, the first of every round left out, and their ratio. Rounds alternate,
so that what else the machine does hits both.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import dataclasses
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
import transformers

from vital_eval.clip import Clip
from vital_eval.engines.hf import HFEngine, load_engine
from vital_eval.episode import Footage
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Sampling, View
from vital_eval.sample import Sample, Target
from vital_eval.span import Span
from vital_eval.task import AnswerKind
from vital_eval.training.advantages import Difficulty
from vital_eval.training.dgrpo import DgrpoStage, attempt_of, train_dgrpo
from vital_eval.training.policy import Policy
from vital_eval.training.policy_loss import LossSettings
from vital_eval.training.problems import Problem
from vital_eval.training.rewards import RewardRules, Scored, ToolBonus
from vital_eval.training.rollouts import roll_out

RATE = 1e-6
KL = 0.01
#: Width, layers, heads of 32 values, width of the feed-forward part, vocabulary (that of Qwen in "qwen-words").
SIZES = {
    "nano": None,
    "small": (256, 8, 8, 768, 1496),
    "medium": (512, 12, 16, 1536, 1496),
    "qwen-words": (128, 5, 4, 384, 151_936),
}


@dataclass(frozen=True, slots=True)
class Task:
    """What both sides do.

    Attributes:
        steps: steps of one round; the first is not counted.
        prompts: prompts a step.
        group: rollouts a prompt.
        tokens: tokens a rollout.
        device: ``cpu`` or ``cuda``.
    """

    steps: int
    prompts: int
    group: int
    tokens: int
    device: str


def make_checkpoint(size: str, folder: Path) -> None:
    """Write a checkpoint of a size: nano's own, or random weights of nano's architecture made larger."""
    with as_file(files("vital_eval.nano") / "checkpoint") as nano:
        shutil.copytree(nano, folder)
    shape = SIZES[size]
    if shape is None:
        return
    width, layers, heads, inner, vocabulary = shape
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
    }
    config["vision_config"]["out_hidden_size"] = width
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    kind = transformers.Qwen3VLForConditionalGeneration
    kind(transformers.AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def text_model(folder: Path, target: Path) -> None:
    """Write the language part of a Qwen3-VL checkpoint as a Qwen3 checkpoint.

    Without images M-RoPE is plain RoPE, so both are the same function of the ids; :func:`require_equal` checks it.
    """
    whole = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder)
    text = whole.config.text_config
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    names += ("intermediate_size", "rms_norm_eps", "max_position_embeddings", "pad_token_id")
    config = transformers.Qwen3Config(
        **{name: getattr(text, name) for name in names},
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"]},
        tie_word_embeddings=True,
        eos_token_id=whole.generation_config.eos_token_id,
        bos_token_id=None,
    )
    model = transformers.Qwen3ForCausalLM(config)
    model.model.load_state_dict(whole.model.language_model.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(target)


def require_equal(folder: Path, target: Path) -> float:
    """Return the largest difference of the logits of the two checkpoints on random ids; refuse one above 1e-3."""
    ids = torch.randint(7, 400, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder)(input_ids=ids).logits
        other = transformers.Qwen3ForCausalLM.from_pretrained(target)(input_ids=ids).logits
    difference = float((one - other).abs().max())
    if difference > 1e-3:
        raise SystemExit(f"the two checkpoints differ by {difference} in their logits")
    return difference


def chance(answer: str | None) -> Scored:
    """Reward that differs within groups: no time is spent on it, and no group is without advantages."""
    del answer
    return Scored(random.random())  # noqa: S311 - no secret


def problems_of(task: Task) -> list[Problem]:
    """Return problems enough for a round; prompts differ in length as real ones do."""
    words = ("red", "circle", "moves", "left", "then", "a", "green", "square", "turns")
    problems = []
    for number in range(task.prompts * task.steps):
        asked = f"{' '.join(words[: 2 + number % 8])} {number}"
        sample = Sample(f"q{number}", "moments", f"{number}.mp4", 32.0, asked, Target(windows=((4.0, 9.0),)), "v")
        problems.append(Problem(sample, AnswerKind.SPAN, chance, verbatim=False))
    return problems


async def no_video(video: str) -> Footage:
    """Open a video that nobody looks at."""
    del video

    async def read(span: Span | None, view: View) -> Clip:
        del span, view
        return Clip(np.zeros((2, 32, 32, 3), dtype=np.uint8), (0.0, 16.0), Span(0.0, 32.0))

    return Footage(32.0, 31.0, read)


def stage_of(task: Task) -> DgrpoStage:
    """Return the task as our stage."""
    asked = preset("nano", Mode.BLIND, "moments")
    return DgrpoStage(
        name="step",
        protocol=dataclasses.replace(asked, sampling=Sampling(max_new_tokens=task.tokens, temperature=1.0)),
        steps=task.steps,
        rate=RATE,
        prompts=task.prompts,
        group=task.group,
        difficulty=Difficulty.RELEASED,
        filtered=False,
        loss=LossSettings(kl=KL),
        rules=RewardRules(tool_bonus=ToolBonus.NONE),
        micro_batch=task.prompts * task.group,
    )


def open_engine(folder: Path, task: Task) -> tuple[HFEngine, list[int]]:
    """Return an engine that never ends a turn early, and the ids that it never samples."""
    engine = load_engine(folder, task.device, "float32", task.prompts * task.group)
    stop = engine.parts.tokenizer.convert_tokens_to_ids("</answer>")
    never = sorted({*engine.parts.vocabulary.banned_ids, *engine.parts.vocabulary.end_ids, stop})
    # Not an option of the engine: only a measurement wants rollouts of one length.
    engine._vocabulary = dataclasses.replace(engine.parts.vocabulary, banned_ids=tuple(never))
    return engine, never


async def read_prompts(folder: Path, task: Task) -> tuple[list[list[int]], list[int]]:
    """Return the ids of every problem's prompt as our side poses it, and the ids that are never sampled."""
    engine, never = open_engine(folder, task)
    short = dataclasses.replace(stage_of(task).protocol, sampling=Sampling(max_new_tokens=1, temperature=1.0))
    try:
        played = await roll_out([attempt_of(one, short, {}, 0) for one in problems_of(task)], engine, no_video)
    finally:
        await engine.close()
    encoded = [engine.parts.encoder.encode(one.conversation, open_turn=False) for one in played if one.conversation]
    return [one.ids[: int(one.is_sampled.argmax())].tolist() for one in encoded], never


async def time_ours(folder: Path, task: Task, out: Path) -> list[float]:
    """Return the seconds of every step but the first, logging included."""
    engine, never = open_engine(folder, task)
    parts = engine.parts
    reference = copy.deepcopy(parts.model).eval().requires_grad_(False)
    policy = Policy(parts.model, reference, parts.encoder, engine, parts.vocabulary.pad_id, tuple(never))
    ends: list[float] = []
    try:
        done = await train_dgrpo(
            policy,
            stage_of(task),
            problems_of(task),
            {},
            no_video,
            out,
            seed=0,
            report=lambda line: ends.append(time.perf_counter()),
            save_every=10**6,
        )
    finally:
        await engine.close()
    for one in done:
        if one.trained != task.prompts * task.group or one.tokens != task.tokens:
            raise SystemExit(f"not the task that was asked for: {one}")
    return np.diff(ends).tolist()


def time_trl(target: Path, task: Task, prompts: list[list[int]], never: list[int], out: Path) -> list[float]:
    """Return the seconds of every step but the first on TRL's side."""
    import datasets
    import trl

    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in prompts]
    if tokenizer(text=texts)["input_ids"] != prompts:
        raise SystemExit("TRL would see other prompts")
    ends: list[float] = []
    lengths: list[int] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *unused: object, **options: object) -> None:
            ends.append(time.perf_counter())

    def reward(completion_ids: list[list[int]], **options: object) -> list[float]:
        lengths.extend(len(ids) for ids in completion_ids)
        return [random.random() for _ in completion_ids]  # noqa: S311 - no secret

    settings = trl.GRPOConfig(
        output_dir=str(out),
        use_cpu=task.device == "cpu",
        bf16=False,
        activation_checkpointing=False,
        per_device_train_batch_size=task.prompts * task.group,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_iterations=1,
        num_generations=task.group,
        max_completion_length=task.tokens,
        generation_kwargs={"suppress_tokens": never},
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=KL,
        loss_type="bnpo",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_steps=task.steps,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        model_init_kwargs={"dtype": "float32"},
    )
    trainer = trl.GRPOTrainer(
        model=str(target),
        reward_funcs=reward,
        args=settings,
        train_dataset=datasets.Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    if lengths != [task.tokens] * (task.steps * task.prompts * task.group):
        raise SystemExit(f"not the task that was asked for: lengths {sorted(set(lengths))}, {len(lengths)} rollouts")
    return np.diff(ends).tolist()


def measure(task: Task, size: str, rounds: int, ours_only: bool, show: Callable[[str], None]) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder, target = Path(name) / size, Path(name) / "text"
        make_checkpoint(size, folder)
        prompts, never = asyncio.run(read_prompts(folder, task))
        show(
            f"{size}: {task.prompts} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, "
            f"{task.group} rollouts each, {task.tokens} tokens a rollout, {task.device}, "
            f"{torch.get_num_threads()} threads"
        )
        if not ours_only:
            text_model(folder, target)
            show(f"logits of the two checkpoints differ by at most {require_equal(folder, target):.1e}")
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(rounds):
            ours += asyncio.run(time_ours(folder, task, Path(name) / f"ours{number}"))
            if not ours_only:
                theirs += time_trl(target, task, prompts, never, Path(name) / f"trl{number}")
    show(f"ours {statistics.median(ours):.3f} s a step (best {min(ours):.3f}, {len(ours)} steps)")
    if theirs:
        show(f"TRL  {statistics.median(theirs):.3f} s a step (best {min(theirs):.3f}, {len(theirs)} steps)")
        show(f"steps in the time of one of TRL's: {statistics.median(theirs) / statistics.median(ours):.2f}")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="nano")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5, help="of a round; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ours-only", action="store_true")
    given = parser.parse_args()
    task = Task(given.steps, given.prompts, given.group, given.tokens, given.device)
    measure(task, given.size, given.rounds, given.ours_only, print)


if __name__ == "__main__":
    main()
