"""The recipe of vital-nano: words, captions, timelines, then the dialogues of all three modes.

Run ``python -m vital_eval.training.nano --out FOLDER``; it takes about 40 minutes on 2 CPU cores and goes on where it
was interrupted. The order matters: what a frame shows (words), what is visible at a time (captions), when something is
visible (timelines), and only then how to answer, with the earlier skills mixed in so that they stay.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from vital_eval.conversation import Conversation
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.encode import Encoded, Encoder
from vital_eval.engines.pixels import patchify
from vital_eval.nano.questions import Ask, ask_question
from vital_eval.nano.world import Event, VideoPlan, World, generator, make_video
from vital_eval.presets import NANO_VIEW, preset
from vital_eval.protocol import Mode

from .nano_dialogues import NotVisibleError, Teacher, look
from .nano_model import build_model, build_tokenizer, save_checkpoint
from .sft import Stage, backward_mean, train_stage
from .words import FramePairs, backward_words

STAGES = (
    Stage("words", steps=400, rate=2e-3),
    Stage("captions", steps=400, rate=2e-3),
    Stage("timelines", steps=800, rate=2e-3),
    Stage("dialogues", steps=2000, rate=1.5e-3),
)
#: Conversations a step.
BATCH = 32
#: Frame pairs a step of the words stage, at least.
PAIRS = 160

#: Questions of the dialogue stage and how often each is drawn.
_ASKS = {
    Ask.MOMENT: 0.34,
    Ask.MOMENTS: 0.08,
    Ask.SHAPE_AND_MOMENT: 0.16,
    Ask.COLOUR_BETWEEN: 0.18,
    Ask.COLOUR_FIRST: 0.05,
    Ask.COLOUR_AT_END: 0.05,
    Ask.SIDE: 0.05,
    Ask.COUNT: 0.05,
    Ask.SIZE: 0.04,
}
_OPTIONS = {
    Ask.SHAPE_AND_MOMENT: (4, 5),
    Ask.COLOUR_BETWEEN: (0, 4, 5, 8),
    Ask.COLOUR_FIRST: (4,),
    Ask.COLOUR_AT_END: (4, 6, 8),
    Ask.SIDE: (2,),
}


class Lessons:
    """Draws training conversations; step and row decide everything.

    Args:
        encoder: the one evaluation uses.
        tokenizer: for the turns the model is to say.
        seed: seed of the train world.
    """

    def __init__(self, encoder: Encoder, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._seed = seed
        self._teachers = {mode: Teacher(preset("nano", mode, ""), self._speak) for mode in Mode}

    def draw(self, stage: str, step: int) -> Sequence[Encoded]:
        """Return the encoded conversations of one step of a stage."""
        return [self._draw_one(stage, step, row) for row in range(BATCH)]

    def draw_pairs(self, step: int) -> FramePairs:
        """Return frame pairs and the words that name what they show."""
        rng = generator(World.TRAIN, self._seed, 0, step)
        patches: list[NDArray[np.float32]] = []
        grid = (0, 0)
        words: list[tuple[int, ...]] = []
        while len(words) < PAIRS:
            video = make_video(VideoPlan(24.0, 120.0, tiled=rng.random() < 0.3), rng)
            scene = look(video, None, NANO_VIEW, rng)
            values, (_, height, width) = patchify(scene.clip, self._encoder.checkpoint.pixels)
            grid = (height, width)
            for cells, events in zip(np.split(values, len(scene.labels)), scene.shown, strict=True):
                if len(events) <= 1:
                    patches.append(cells)
                    words.append(self._names(next(iter(events), None)))
        return FramePairs(np.concatenate(patches), grid, tuple(words))

    def _names(self, event: Event | None) -> tuple[int, ...]:
        text = f" {event.colour} {event.shape} {event.side}" if event else " nothing"
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _draw_one(self, stage: str, step: int, row: int) -> Encoded:
        number = [entry.name for entry in STAGES].index(stage)
        rng = generator(World.TRAIN, self._seed, number, step, row)
        while True:
            try:
                conversation = self._lesson(stage, rng)
            except NotVisibleError:
                continue
            return self._encoder.encode(conversation, open_turn=False)

    def _lesson(self, stage: str, rng: np.random.Generator) -> Conversation:
        longest = float(rng.choice([36.0, 70.0, 120.0]))
        kind = rng.random()
        plan = VideoPlan(
            shortest=24.0,
            longest=longest,
            tiled=kind < 0.1,
            repeated=0.1 < kind < 0.25,
            flash=0.25 < kind < 0.5,
            ends_visible=0.5 < kind < 0.6,
        )
        video = make_video(plan, rng)
        teacher = self._teachers[Mode.TOOL]
        lesson = rng.random()
        if stage == "captions":
            return teacher.caption(video, rng, pairs=int(rng.integers(2, 9)))
        if stage == "timelines":
            return teacher.caption(video, rng, pairs=6) if lesson < 0.15 else teacher.timeline(video, rng)
        if stage != "dialogues":
            raise ValueError(f"stage {stage!r} has no conversations")
        if lesson < 0.2:
            return teacher.timeline(video, rng)
        if lesson < 0.25:
            return teacher.caption(video, rng, pairs=6)
        ask = Ask(str(rng.choice([ask.value for ask in _ASKS], p=list(_ASKS.values()))))
        if ask is Ask.MOMENTS:
            video = make_video(VideoPlan(24.0, longest, repeated=True), rng)
        if ask is Ask.COLOUR_AT_END:
            video = make_video(VideoPlan(24.0, longest, ends_visible=True), rng)
        options = int(rng.choice(_OPTIONS.get(ask, (0,))))
        mode = Mode(str(rng.choice(["direct", "cot", "tool"], p=[0.2, 0.35, 0.45])))
        return self._teachers[mode].dialogue(video, ask_question(ask, video, rng, options), rng)

    def _speak(self, text: str) -> tuple[int, ...]:
        return (*self._tokenizer(text, add_special_tokens=False)["input_ids"], self._tokenizer.eos_token_id)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train vital-nano from scratch into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the training state")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and train world (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    folder = options.out / "checkpoint"
    save_checkpoint(model, tokenizer, folder)
    encoder = Encoder(
        open_checkpoint(folder), tokenizer, tokenizer.convert_tokens_to_ids("<|video_pad|>"), tokenizer.eos_token_id
    )
    lessons = Lessons(encoder, tokenizer, options.seed)
    started = time.monotonic()

    def report(line: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - started:6.0f} s] {line}\n")
        sys.stdout.flush()

    def backward(stage: str, step: int) -> float:
        if stage == "words":
            return backward_words(model, lessons.draw_pairs(step))
        return backward_mean(model, lessons.draw(stage, step), tokenizer.pad_token_id)

    for stage in STAGES:
        state = options.out / f"{stage.name}.safetensors"
        train_stage(
            model,
            stage,
            functools.partial(backward, stage.name),
            state,
            report,
        )
        save_checkpoint(model, tokenizer, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
