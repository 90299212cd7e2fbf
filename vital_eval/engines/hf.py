"""Hugging Face transformers in process: Qwen2.5-VL and Qwen3-VL checkpoints on CPU or GPU.

Pixels, grids, times and M-RoPE positions are prepared here and passed explicitly (see ``docs/engines.md`` for the
silent errors that this avoids). Requests that arrive together run as one batch; episodes progress independently.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import torch
import transformers
from safetensors import SafetensorError

from vital_eval.engine import ContextOverflowError, EngineInfo, FrameGeometry, GenerationRequest
from vital_eval.engines.batch_decode import Row, Vocabulary, decode_batch
from vital_eval.engines.checkpoint import Checkpoint, open_checkpoint
from vital_eval.engines.encode import Encoder
from vital_eval.engines.prefix_cache import PrefixCache
from vital_eval.engines.tokens import load_tokenizer, make_encoder, make_vocabulary, turn_text
from vital_eval.errors import CheckpointError, EngineError
from vital_eval.generation import Generation

_MODEL_CLASSES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
#: How long a batch waits for company after its last arrival, in seconds.
_GATHER_SECONDS = 0.004


def load_engine(
    checkpoint: Path,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    cache_bytes: int = 2 << 30,
) -> HFEngine:
    """Load a checkpoint folder.

    Args:
        checkpoint: folder with config, safetensors, tokenizer and processor settings.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU) or a torch dtype's name.
        batch_size: most conversations in one batch.
        cache_bytes: memory for keys and values of unfinished episodes; 0 computes every turn in full.

    Raises:
        CheckpointError: see :func:`vital_eval.engines.checkpoint.open_checkpoint`.
    """
    opened = open_checkpoint(checkpoint)
    place = require_device(device)
    number_type = _dtype(dtype, place)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = load_tokenizer(opened.folder)
        model_class = getattr(transformers, _MODEL_CLASSES[opened.model_type])
        model, loading = model_class.from_pretrained(
            opened.folder,
            dtype=number_type,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        model = model.to(place)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"cannot load {opened.folder}: {line}", "the checkpoint may be incomplete or damaged"
        ) from error
    # transformers fills what is missing with random weights and says so in a warning only.
    absent = sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])})
    if absent:
        raise CheckpointError(
            f"{opened.folder} lacks {len(absent)} of the model's tensors, among them {absent[0]}",
            "the checkpoint is incomplete or belongs to another configuration",
        )
    return HFEngine(opened, model.eval(), tokenizer, batch_size, cache_bytes)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What an engine is made of, for training the model that speaks.

    Attributes:
        checkpoint: what was loaded.
        model: the loaded model; the engine speaks with whatever weights it has.
        tokenizer: the checkpoint's.
        encoder: conversation to model inputs.
        vocabulary: end, banned and padding ids.
    """

    checkpoint: Checkpoint
    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    encoder: Encoder
    vocabulary: Vocabulary


class HFEngine:
    """An :class:`~vital_eval.engine.Engine` over a loaded model.

    Args:
        checkpoint: what was loaded.
        model: in evaluation mode, on its device.
        tokenizer: the checkpoint's.
        batch_size: most conversations in one batch.
        cache_bytes: see :func:`load_engine`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase,
        batch_size: int,
        cache_bytes: int,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch of {batch_size} conversations never ends")
        self._checkpoint = checkpoint
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._prefixes = PrefixCache(cache_bytes)
        self._limit = int(model.config.get_text_config().max_position_embeddings)
        self._encoder = make_encoder(checkpoint, tokenizer)
        self._vocabulary = make_vocabulary(tokenizer, model.generation_config.eos_token_id)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hf-engine")
        self._waiting: list[tuple[GenerationRequest, float, asyncio.Future[Generation]]] = []
        self._arrived = asyncio.Event()
        self._stopping = threading.Event()
        self._loop_task: asyncio.Task[None] | None = None
        pixels = checkpoint.pixels
        self._info = EngineInfo(
            name="hf",
            model=checkpoint.folder.resolve().name,
            fingerprint=checkpoint.fingerprint,
            geometry=FrameGeometry(pixels.patch * pixels.merge, pixels.temporal),
            details=MappingProxyType(
                {
                    "torch": torch.__version__,
                    "transformers": importlib.metadata.version("transformers"),
                    "device": model.device.type,
                    "dtype": str(model.dtype).removeprefix("torch."),
                    "attention": str(model.config._attn_implementation),
                    "video_text": "one block a temporal patch behind its time"
                    if checkpoint.model_type == "qwen3_vl"
                    else "one block a video",
                }
            ),
        )

    @property
    def info(self) -> EngineInfo:
        """Return who answers."""
        return self._info

    @property
    def parts(self) -> Parts:
        """Return what it is made of."""
        return Parts(self._checkpoint, self._model, self._tokenizer, self._encoder, self._vocabulary)

    async def generate(self, request: GenerationRequest) -> Generation:
        """Write one turn; see :class:`~vital_eval.engine.Engine`."""
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.get_running_loop().create_task(self._serve())
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, time.monotonic(), future))
        self._arrived.set()
        return await future

    def release(self, episode: str) -> None:
        """Forget the keys and values of a finished episode."""
        self._prefixes.drop(episode)

    def rename(self, episode: str, to: str) -> None:
        """Let the keys and values of one episode belong to another one, for callers that learn its name later."""
        self._prefixes.rename(episode, to)

    async def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Speak with these weights from now on; see :class:`vital_eval.training.policy.WeightReceiver`.

        Args:
            weights: by the names of the model's parameters, tied ones once; of any type and on any device. What is not
                named stays. The model's own parameters cost nothing: they are there already.

        Raises:
            CheckpointError: if a name or a shape is not the model's; no weight is changed then.
        """
        # In the thread that decodes: no batch ever sees half of the new weights.
        await asyncio.get_running_loop().run_in_executor(self._worker, self._load_weights, weights)

    async def close(self) -> None:
        """Give up what is being written, stop serving and free the thread.

        Turns that still wait fail with an :class:`~vital_eval.errors.EngineError`.
        """
        self._stopping.set()
        if self._loop_task is not None:
            self._loop_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop_task
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(EngineError("the engine was closed while it was writing"))
        self._worker.shutdown(wait=True)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            seen = -1
            while seen != len(self._waiting) < self._batch_size:
                seen = len(self._waiting)
                await asyncio.sleep(_GATHER_SECONDS)
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            if not self._waiting:
                self._arrived.clear()
            batch = [entry for entry in batch if not entry[2].done()]
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._worker, self._run, [entry[:2] for entry in batch])
            except asyncio.CancelledError:
                self._waiting = [*batch, *self._waiting]  # for close to tell them
                raise
            except Exception as error:  # a bug: it belongs to whoever waits, or they would wait for ever
                results = [error] * len(batch)
            for (_, asked, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(dataclasses.replace(result, seconds=time.monotonic() - asked))

    @torch.no_grad()
    def _load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        own = dict(self._model.named_parameters())
        for name, values in weights.items():
            if name not in own or own[name].shape != values.shape:
                found = f"shape {tuple(own[name].shape)}" if name in own else "no such tensor"
                raise CheckpointError(
                    f"weights hold {name} of shape {tuple(values.shape)}, the engine's model has {found}",
                    "load the engine from the checkpoint that is trained",
                )
        for name, values in weights.items():
            if own[name].data_ptr() != values.data_ptr():
                own[name].copy_(values)
        # Keys and values of the old weights are wrong for the new ones.
        self._prefixes.clear()

    def _run(self, requests: Sequence[tuple[GenerationRequest, float]]) -> list[Generation | Exception]:
        """Run one batch, of requests and when they came, in the worker thread; one that cannot run fails alone."""
        taken = time.monotonic()
        results: list[Generation | Exception | None] = [None] * len(requests)
        rows: list[tuple[int, Row]] = []
        for index, (request, _) in enumerate(requests):
            try:
                rows.append((index, self._prepare(request)))
            except (EngineError, ContextOverflowError) as error:
                results[index] = error
            except ValueError as error:
                results[index] = EngineError(f"cannot encode the conversation: {error}")
        for _, row in rows:
            row.taken_at = taken
        if rows:
            try:
                self._decode_rows([row for _, row in rows])
            except RuntimeError as error:
                # Out of memory and kernel faults: these samples are owed again, the run goes on.
                line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                for index, _ in rows:
                    results[index] = EngineError(f"the model failed on a batch of {len(rows)}: {line}")
                rows = []
        for index, row in rows:
            results[index] = self._finish(*requests[index], row)
        return [result for result in results if result is not None]

    def _decode_rows(self, rows: list[Row]) -> None:
        """Decode a batch; one that does not fit into the device's memory is halved."""
        try:
            decode_batch(self._model, rows, self._vocabulary, self._stopping)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            torch.cuda.empty_cache()
            for row in rows:
                row.start_again()
            self._decode_rows(rows[: len(rows) // 2])
            for row in rows[len(rows) // 2 :]:
                row.taken_at = time.monotonic()
            self._decode_rows(rows[len(rows) // 2 :])

    def _prepare(self, request: GenerationRequest) -> Row:
        layout = self._encoder.lay_out(request.conversation)
        if len(layout.ids) >= self._limit:
            raise ContextOverflowError(f"{len(layout.ids)} tokens do not fit into {self._limit}")
        prefix = self._prefixes.take(request.episode, layout.ids)
        encoded = self._encoder.cut(layout, len(prefix.ids) if prefix else 0)
        room = self._limit - len(layout.ids)
        return Row(encoded, prefix, request.sampling, request.seed, request.stop, room, request.expect_more)

    def _finish(self, request: GenerationRequest, asked: float, row: Row) -> Generation:
        if row.finish is None or row.first_token_at is None:
            raise AssertionError("a decoded row has ended")
        if row.cached is not None:
            self._prefixes.put(request.episode, row.cached)
        return Generation(
            token_ids=tuple(row.written),
            text=turn_text(self._vocabulary, row.encoded.ids.tolist(), row.written, row.finish, row.stop),
            finish=row.finish,
            prompt_tokens=len(row.encoded.ids),
            cached_tokens=row.skip,
            visual_tokens=int(row.encoded.is_visual.sum()),
            queue_seconds=row.taken_at - asked,
            prefill_seconds=row.first_token_at - row.taken_at,
        )


def require_device(name: str) -> torch.device:
    """Return the device of a name.

    Args:
        name: as for :func:`load_engine`.

    Raises:
        CheckpointError: if there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CheckpointError(f"unknown device {name!r}", "use auto, cpu, cuda or cuda:N") from error
    if device.type not in {"cpu", "cuda"}:
        raise CheckpointError(f"device {name!r} is not supported", "use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("no GPU that torch can use", "use --device cpu, or install a CUDA build of torch")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"unknown dtype {name!r}", "use auto, float32, bfloat16 or float16")
    return dtype
