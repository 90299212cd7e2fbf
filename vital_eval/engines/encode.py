"""Conversation to model inputs, one function for evaluation and training.

The chat template is the checkpoint's own. Turns the model wrote enter as the ids it sampled: the template is
rendered with a placeholder in their place and only what lies between is tokenised, so the prompt of turn k is the
prompt of turn k - 1, then its ids, then the new text. Earlier text is never rendered or tokenised again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, clips_of
from vital_eval.engines.checkpoint import Checkpoint
from vital_eval.engines.pixels import patch_grid, patch_times, patchify, seconds_per_patch
from vital_eval.engines.positions import VisionBlock, mrope_positions
from vital_eval.errors import EngineError

_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
_PAD = "<|video_pad|>"
_PLACEHOLDER = "\u2402assistant-turn\u2403"


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that encoding needs."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any:
        """Render the chat template."""

    def __call__(self, text: str, **kwargs: Any) -> Any:
        """Tokenise."""

    def convert_tokens_to_ids(self, tokens: str) -> Any:
        """Look a token up."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Model inputs of one conversation.

    Attributes:
        ids: token ids, visual pads expanded, shape (length,).
        positions: M-RoPE positions, shape (4, length).
        patches: float32, shape (all patches, patch values), the clips one after another.
        grids: (t, h, w) in patches, one per clip.
        is_visual: shape (length,), whether each id is a video pad.
        is_sampled: shape (length,), whether each id was written by the model.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    patches: NDArray[np.float32]
    grids: tuple[tuple[int, int, int], ...]
    is_visual: NDArray[np.bool_]
    is_sampled: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A conversation before its pixels are cut: all of :class:`Encoded` that is cheap.

    Attributes:
        ids: see :class:`Encoded`, as are ``positions``, ``grids``, ``is_visual`` and ``is_sampled``.
        positions: see above.
        clips: in the order the model meets them.
        grids: see above.
        is_visual: see above.
        is_sampled: see above.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    clips: tuple[Clip, ...]
    grids: tuple[tuple[int, int, int], ...]
    is_visual: NDArray[np.bool_]
    is_sampled: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """The ids of one conversation, without pixels and positions.

    Attributes:
        ids: visual pads expanded, exactly those of :class:`Encoded`.
        short: the same with one pad a clip, for engines that expand it themselves.
        visual_tokens: how many of ``ids`` are video pads of clips.
    """

    ids: tuple[int, ...]
    short: tuple[int, ...]
    visual_tokens: int


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes conversations for one checkpoint.

    Attributes:
        checkpoint: the checkpoint's settings.
        tokenizer: its tokenizer.
        video_id: id of the video pad.
        end_id: id that ends a turn.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    video_id: int
    end_id: int

    def encode(self, conversation: Conversation, *, open_turn: bool = True) -> Encoded:
        """Encode a conversation.

        Args:
            conversation: what was said so far.
            open_turn: end with the opening of the next assistant turn (for generation). Training passes
                ``False`` and a conversation that ends with an assistant turn.

        Raises:
            EngineError: if the template drops a video or a text holds control tokens.
        """
        return self.cut(self.lay_out(conversation, open_turn=open_turn))

    def lay_out(self, conversation: Conversation, *, open_turn: bool = True) -> Layout:
        """Encode all but the pixels; otherwise as :meth:`encode`."""
        clips = clips_of(conversation)
        expansions = [self._expand(clip) for clip in clips]
        ids, sampled = self._write(conversation, [text for text, _ in expansions], open_turn=open_turn)
        array = np.asarray(ids, dtype=np.int64)
        is_sampled = np.asarray(sampled, dtype=np.bool_)
        # A sampled pad is text that a model wrote (engines ban it); only pads we placed carry pixels.
        is_visual = (array == self.video_id) & ~is_sampled
        blocks = [block for _, clip_blocks in expansions for block in clip_blocks]
        try:
            positions = mrope_positions(is_visual, blocks)
        except ValueError as error:
            raise EngineError(f"cannot place the videos in the prompt: {error}", "check the chat template") from error
        grids = tuple(patch_grid(clip, self.checkpoint.pixels) for clip in clips)
        return Layout(array, positions, clips, grids, is_visual, is_sampled)

    def cut(self, layout: Layout, skip: int = 0) -> Encoded:
        """Cut the pixels of a conversation into patches.

        Args:
            layout: see :meth:`lay_out`.
            skip: of its first ids the keys and values are known; the patches of clips among them are left zero.
        """
        pixels = self.checkpoint.pixels
        sizes = [t * h * w for t, h, w in layout.grids]
        patches = np.zeros((sum(sizes), 3 * pixels.temporal * pixels.patch**2), dtype=np.float32)
        known = int(layout.is_visual[:skip].sum()) * pixels.merge**2
        end = 0
        for clip, size in zip(layout.clips, sizes, strict=True):
            begin, end = end, end + size
            if end > known:
                patches[begin:end], _ = patchify(clip, pixels)
        return Encoded(layout.ids, layout.positions, patches, layout.grids, layout.is_visual, layout.is_sampled)

    def prompt(self, conversation: Conversation) -> Prompt:
        """Write the prompt of the next assistant turn as ids, for an engine that prepares pixels and positions itself.

        Raises:
            EngineError: as :meth:`encode`.
        """
        expansions = [self._expand(clip) for clip in clips_of(conversation)]
        ids, _ = self._write(conversation, [text for text, _ in expansions], open_turn=True)
        # Qwen3-VL's outer pair of marks would stay around the expanded video: the form that `encode` does not write.
        mark = _PAD if self.checkpoint.model_type == "qwen3_vl" else _VIDEO
        short, _ = self._write(conversation, [mark] * len(expansions), open_turn=True)
        return Prompt(tuple(ids), tuple(short), sum(block.tokens for _, blocks in expansions for block in blocks))

    def _write(
        self, conversation: Conversation, videos: Sequence[str], *, open_turn: bool
    ) -> tuple[list[int], list[bool]]:
        """Return the ids, with ``videos`` in the place of the clips, and whether each was written by the model."""
        texts = iter(videos)
        ids: list[int] = []
        sampled: list[bool] = []
        for index, entry in enumerate(conversation):
            if isinstance(entry, AssistantTurn):
                new = list(entry.generation.token_ids)
                ids += new
                sampled += [True] * len(new)
                if index + 1 == len(conversation) and not open_turn:
                    break
            elif index == 0 or isinstance(conversation[index - 1], AssistantTurn):
                piece = self._tokenise(self._piece(conversation, index), texts)
                # The template closes the turn; a model that closed it itself must not close it twice.
                if ids and piece and ids[-1] == self.end_id == piece[0]:
                    piece = piece[1:]
                ids += piece
                sampled += [False] * len(piece)
        return ids, sampled

    def _piece(self, conversation: Conversation, index: int) -> str:
        """Render the text from the message at ``index`` to the next assistant turn."""
        end = index
        while end < len(conversation) and not isinstance(conversation[end], AssistantTurn):
            end += 1
        messages = [_to_template(entry) for entry in conversation[:end]]
        try:
            rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise EngineError(f"the chat template fails: {error}", "check the checkpoint's chat template") from error
        text = str(rendered).rpartition(_PLACEHOLDER)[2] if index else str(rendered)
        wanted = len(clips_of(conversation[index:end]))
        if text.count(_VIDEO) != wanted or text.count(_PAD) != wanted:
            raise EngineError(
                f"the prompt holds {text.count(_PAD)} video marks for {wanted} videos",
                "a text contains control tokens, or the chat template drops videos",
            )
        return text

    def _tokenise(self, text: str, expansions: Iterator[str]) -> list[int]:
        expanded = re.sub(re.escape(_VIDEO), lambda _: next(expansions), text)
        return list(self.tokenizer(expanded, add_special_tokens=False)["input_ids"])

    def _expand(self, clip: Clip) -> tuple[str, list[VisionBlock]]:
        """Return the text of a clip and the blocks of its visual tokens."""
        settings = self.checkpoint.pixels
        t, h, w = patch_grid(clip, settings)
        rows, columns = h // settings.merge, w // settings.merge
        pads = _PAD * (rows * columns)
        if self.checkpoint.model_type == "qwen3_vl":
            # The form the checkpoints were trained on (transformers 4.57): every temporal patch is a block of its
            # own behind its time. Newer processors keep an outer pair of vision marks; logits differ by 0.6.
            times = patch_times(clip, settings.temporal)
            text = "".join(f"<{time:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for time in times)
            return text, [VisionBlock((1, rows, columns), 1.0)] * t
        rate = float(self.checkpoint.config["vision_config"].get("tokens_per_second", 2))
        # Rounded as every processor hands it on: at 0.7 s the double would put the fifth patch one position later.
        step = float(np.float32(seconds_per_patch(clip, settings.temporal))) * rate
        return f"<|vision_start|>{pads * t}<|vision_end|>", [VisionBlock((t, rows, columns), step)]


def _to_template(entry: Message | AssistantTurn) -> dict[str, Any]:
    if isinstance(entry, AssistantTurn):
        return {"role": "assistant", "content": [{"type": "text", "text": _PLACEHOLDER}]}
    parts = [{"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "video"} for p in entry.parts]
    return {"role": entry.role, "content": parts}
