"""The base of vital-nano, from random weights: what a tiny model must see and say before any protocol is taught.

Six curricula: what a frame pair shows (words), what is visible at a time (captions), when something is visible
(timelines), plain answers, a share of them to questions that come without their video, with options weighed in text
alone (answers), an event found in a written timeline (drills), and reports, which say at length what an answer follows
from, with all others mixed in. No lesson is in the form of a thought or calls a tool: that is what the stages of the
recipe teach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vital_eval.atomic import write_atomically
from vital_eval.conversation import Conversation
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.encode import Encoded, Encoder
from vital_eval.engines.pixels import patchify
from vital_eval.errors import VitalError
from vital_eval.nano.questions import Ask, ask_question
from vital_eval.nano.world import Event, VideoPlan, World, generator, make_video
from vital_eval.presets import NANO_VIEW, preset
from vital_eval.protocol import Mode

from .collate import collate, hidden_states
from .nano_dialogues import NotVisibleError, Teacher, look
from .nano_model import build_model, build_tokenizer, save_checkpoint
from .sft import Stage, backward_mean, train_stage
from .words import FramePairs, backward_words

STAGES = (
    Stage("words", steps=400, rate=2e-3),
    Stage("captions", steps=400, rate=2e-3),
    Stage("timelines", steps=800, rate=2e-3),
    Stage("answers", steps=300, rate=1.5e-3),
    # Ends well after the step at which the skill appears (docs/decisions/0003): do not shorten it.
    Stage("drills", steps=400, rate=1.5e-3),
    Stage("reports", steps=900, rate=1.5e-3),
)
#: Share of unseen written timelines, of 64, that a base must read right. The skill appears all at once, sooner or later
#: by the seed (bases were seen at 42 % and from 92 to 99 %), and nothing that follows makes up for it: the drills go
#: round again until it is there, or give up.
MASTERED = 0.9
DRILL_ROUNDS = 4
#: Conversations a step.
BATCH = 32
#: A step that no curriculum reaches: its drills are new to the model.
_UNSEEN = 1_000_000
#: Frame pairs a step of the words stage, at least.
PAIRS = 160

#: Questions of the answers stage and how often each is drawn.
_ASKS = {
    Ask.MOMENT: 0.3,
    Ask.MOMENTS: 0.1,
    Ask.SHAPE_AND_MOMENT: 0.15,
    Ask.COLOUR_BETWEEN: 0.2,
    Ask.COLOUR_FIRST: 0.05,
    Ask.COLOUR_AT_END: 0.05,
    Ask.SIDE: 0.05,
    Ask.COUNT: 0.05,
    Ask.SIZE: 0.05,
}
_OPTIONS = {
    Ask.SHAPE_AND_MOMENT: (4, 5),
    Ask.COLOUR_BETWEEN: (0, 4, 5, 8),
    Ask.COLOUR_FIRST: (4,),
    Ask.COLOUR_AT_END: (4, 6, 8),
    Ask.SIDE: (2,),
}


#: Lessons of the last curricula: each kind and the sum of the shares up to it.
_SHARES = {
    "answers": {"timeline": 0.35, "caption": 0.4, "choice": 0.65, "blind": 0.75, "direct": 1},
    "reports": {
        "timeline": 0.15,
        "caption": 0.2,
        "choice": 0.3,
        "find": 0.4,
        "report": 0.8,
        "blind": 0.87,
        "direct": 1,
    },
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
        self._teachers = {mode: Teacher(preset("nano", mode, ""), self._speak) for mode in (Mode.BLIND, Mode.DIRECT)}

    def draw(self, stage: str, step: int) -> Sequence[Encoded]:
        """Return the encoded conversations of one step of a stage."""
        return [self._draw_one(stage, step, row) for row in range(BATCH if stage != "drills" else 2 * BATCH)]

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
        sort = rng.random()
        plan = VideoPlan(
            shortest=24.0,
            longest=longest,
            tiled=sort < 0.1,
            repeated=0.1 < sort < 0.25,
            flash=0.25 < sort < 0.5,
            ends_visible=0.5 < sort < 0.6,
        )
        video = make_video(plan, rng)
        teacher = self._teachers[Mode.DIRECT]
        lesson = rng.random()
        if stage == "captions":
            return teacher.caption(video, rng, pairs=int(rng.integers(2, 9)))
        if stage == "timelines":
            return teacher.caption(video, rng, pairs=6) if lesson < 0.15 else teacher.timeline(video, rng)
        if stage == "drills":
            return teacher.find(video, rng)
        if stage not in _SHARES:
            raise ValueError(f"stage {stage!r} has no conversations")
        kind = next(kind for kind, upto in _SHARES[stage].items() if lesson < upto)
        if kind == "timeline":
            return teacher.timeline(video, rng)
        if kind == "caption":
            return teacher.caption(video, rng, pairs=6)
        if kind == "choice":
            return teacher.choice(rng)
        if kind == "find":
            return teacher.find(video, rng)
        ask = Ask(str(rng.choice([ask.value for ask in _ASKS], p=list(_ASKS.values()))))
        if ask is Ask.MOMENTS:
            video = make_video(VideoPlan(24.0, longest, repeated=True), rng)
        if ask is Ask.COLOUR_AT_END:
            video = make_video(VideoPlan(24.0, longest, ends_visible=True), rng)
        question = ask_question(ask, video, rng, int(rng.choice(_OPTIONS.get(ask, (0,)))))
        if kind == "report":
            return teacher.report(video, question, rng)
        return self._teachers[Mode.BLIND if kind == "blind" else Mode.DIRECT].dialogue(video, question, rng)

    def _speak(self, text: str) -> tuple[int, ...]:
        return (*self._tokenizer(text, add_special_tokens=False)["input_ids"], self._tokenizer.eos_token_id)


@torch.no_grad()
def whole_right(model: PreTrainedModel, items: Sequence[Encoded], pad_id: int) -> float:
    """Return the share of conversations of which the model would say every token, greedily.

    The mean loss does not tell: most tokens are easy, and a base at a loss of 0.1 may fail three answers in four.
    """
    batch = collate(items, pad_id)
    said = model.lm_head(hidden_states(model, batch)[:, :-1]).argmax(-1)
    right = (said == batch.ids[:, 1:]) | ~batch.targets[:, 1:]
    return float(right.all(dim=1).float().mean())


def train_base(folder: Path, seed: int, report: Callable[[str], None]) -> Path:
    """Train the base from scratch; an interrupted call goes on.

    Args:
        folder: gets the states of the curricula and ``checkpoint/``, which is complete when this returns.
        seed: of the weights and of the train world's lessons.
        report: called with one line now and then.

    Returns:
        The checkpoint's folder.

    Raises:
        VitalError: if the drills do not bring what they are for (:data:`MASTERED`): every score built on such a base
            would measure its blindness.
    """
    checkpoint, done = folder / "checkpoint", folder / "complete"
    if done.is_file():
        return checkpoint
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    save_checkpoint(model, tokenizer, checkpoint)
    encoder = Encoder(
        open_checkpoint(checkpoint), tokenizer, tokenizer.convert_tokens_to_ids("<|video_pad|>"), tokenizer.eos_token_id
    )
    lessons = Lessons(encoder, tokenizer, seed)

    def backward(stage: str, step: int) -> float:
        if stage == "words":
            return backward_words(model, lessons.draw_pairs(step))
        return backward_mean(model, lessons.draw(stage, step), tokenizer.pad_token_id)

    def train(stage: Stage, turn: int = 0) -> None:
        state = folder / (f"{stage.name}-{turn + 1}.safetensors" if turn else f"{stage.name}.safetensors")
        train_stage(model, stage, lambda step: backward(stage.name, turn * stage.steps + step), state, report)

    def share_right() -> float:
        return whole_right(model, lessons.draw("drills", _UNSEEN), tokenizer.pad_token_id)

    for stage in STAGES:
        train(stage)
        if stage.name == "drills":
            for turn in range(1, DRILL_ROUNDS):
                if share_right() >= MASTERED:
                    break
                report(f"base: {share_right():.0%} of written timelines are read right, the drills go round again")
                train(stage, turn)
            if share_right() < MASTERED:
                raise VitalError(
                    f"after {DRILL_ROUNDS} rounds of drills the base reads {share_right():.0%} of written timelines "
                    f"right, and nothing can be taught to it below {MASTERED:.0%}",
                    "train with another --seed",
                )
    report(f"base: {share_right():.0%} of written timelines are read right at the end")
    save_checkpoint(model, tokenizer, checkpoint)
    for state in folder.glob("*.safetensors"):
        state.unlink()
    write_atomically(done, "")
    return checkpoint
