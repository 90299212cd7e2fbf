"""The checkpoint's tokenizer and what engines read off it: ends of turns, banned tokens, the text of a turn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import transformers

from vital_eval.engines.batch_decode import Vocabulary
from vital_eval.engines.checkpoint import Checkpoint
from vital_eval.engines.encode import Encoder
from vital_eval.errors import CheckpointError
from vital_eval.generation import FinishReason

#: A sampled pad or mark would break the next prompt: no pixels belong to it.
BANNED_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
#: Tokens at the end of a prompt in which a template may have opened a thought.
_TAIL = 6


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer with its chat template, wherever the checkpoint keeps that.

    Raises:
        OSError, ValueError: if its files are missing or damaged.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not tokenizer.chat_template:
        tokenizer.chat_template = _separate_template(folder)
    return tokenizer


def make_encoder(checkpoint: Checkpoint, tokenizer: transformers.PreTrainedTokenizerBase) -> Encoder:
    """Return the encoder of a checkpoint.

    Raises:
        CheckpointError: if the tokenizer has no chat template, no end of turn or no marks for videos.
    """
    if not tokenizer.chat_template:
        raise CheckpointError(f"{checkpoint.folder} has no chat template", "save it as chat_template.jinja")
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"the tokenizer of {checkpoint.folder} has no end-of-turn token", "set its eos_token")
    known = tokenizer.get_vocab()
    missing = [token for token in ("<|video_pad|>", "<|vision_start|>") if token not in known]
    if missing:
        raise CheckpointError(f"the tokenizer of {checkpoint.folder} lacks {missing}", "use the family's own tokenizer")
    return Encoder(checkpoint, tokenizer, known["<|video_pad|>"], tokenizer.eos_token_id)


def make_vocabulary(tokenizer: transformers.PreTrainedTokenizerBase, ends: int | Iterable[int] | None) -> Vocabulary:
    """Return what decoding needs to know of a tokenizer.

    Args:
        tokenizer: has an end-of-turn token.
        ends: further ids that end a turn, as a generation config names them.
    """
    further = [ends] if isinstance(ends, int) else list(ends or ())
    known = tokenizer.get_vocab()

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return Vocabulary(
        frozenset({tokenizer.eos_token_id, *further}),
        tuple(known[token] for token in BANNED_TOKENS if token in known),
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        decode,
    )


def turn_text(
    vocabulary: Vocabulary, prompt: Sequence[int], written: Sequence[int], finish: FinishReason, stop: Sequence[str]
) -> str:
    """Return the text of a turn, as :class:`~vital_eval.generation.Generation` describes it.

    Args:
        vocabulary: see :class:`Vocabulary`.
        prompt: ids that were there before.
        written: ids the model wrote.
        finish: why it ended; at a stop string the text is cut behind the first one.
        stop: strings that end a turn.
    """
    text = vocabulary.decode([token for token in written if token not in vocabulary.end_ids])
    if finish is FinishReason.STOP_STRING:
        text = text[: min((text.find(word) + len(word) for word in stop if word in text), default=len(text))]
    # Some chat templates open the thought before the turn; with its tag the text reads whole.
    opened = vocabulary.decode([int(token) for token in prompt[-_TAIL:]]).rstrip().endswith("<think>")
    return ("<think>" if opened else "") + text


def _separate_template(folder: Path) -> str | None:
    """Return the template that older checkpoints keep in a file of its own."""
    path = folder / "chat_template.json"
    if not path.is_file():
        return None
    template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    return template if isinstance(template, str) else None
