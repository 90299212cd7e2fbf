"""vLLM in this process's care: Qwen2.5-VL and Qwen3-VL checkpoints, many requests at once, on one machine's GPUs.

vLLM takes ids with one pad a video, frames and their times, and prepares pixels and positions itself. What it makes of
a prompt is compared with what the hf engine would be given, for every request, before anything is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import hashlib
import importlib.metadata
import itertools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import vllm

from vital_eval.conversation import clips_of
from vital_eval.engine import ContextOverflowError, EngineInfo, FrameGeometry, GenerationRequest
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.engines.batch_decode import Vocabulary
from vital_eval.engines.checkpoint import Checkpoint, open_checkpoint
from vital_eval.engines.encode import Encoder, Prompt
from vital_eval.engines.tokens import BANNED_TOKENS, load_tokenizer, make_encoder, make_vocabulary, turn_text
from vital_eval.engines.vllm_folder import write_view
from vital_eval.engines.vllm_guard import Guard
from vital_eval.engines.vllm_inputs import VideoInput, sampling_params, video_input
from vital_eval.engines.vllm_start import cause_in, end, start
from vital_eval.engines.vllm_weights import check_weights, write_weights
from vital_eval.errors import CheckpointError, EngineError, VitalError
from vital_eval.generation import FinishReason, Generation

if TYPE_CHECKING:
    import torch

#: More clips than any protocol shows in one conversation.
_MOST_CLIPS = 999
#: Keys and values on a CPU, where vLLM would otherwise take most of the machine's memory.
_CPU_CACHE_GIB = 1.0
#: A request whose pixels fell out of vLLM's cache on the way is sent again; they travel with it then.
_TRIES = 3


@dataclasses.dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM runs.

    Attributes:
        tensor_parallel: GPUs that share one copy of the model.
        data_parallel: copies of the model; an episode stays with one of them.
        gpu_memory: share of each GPU's memory that vLLM may take.
        kv_cache_gib: memory for keys and values in GiB instead of what ``gpu_memory`` leaves (on a CPU: 1).
        pixel_cache_gib: memory for prepared pixels in GiB.
        max_model_len: context in tokens, if less than the checkpoint's own; a longer conversation is an outcome.
        clip_tokens: most visual tokens of one clip; memory is set aside for it.
        enforce_eager: no compilation and no CUDA graphs: slower, starts sooner.
    """

    tensor_parallel: int = 1
    data_parallel: int = 1
    gpu_memory: float = 0.9
    kv_cache_gib: float | None = None
    pixel_cache_gib: float = 4.0
    max_model_len: int | None = None
    clip_tokens: int = 65_536
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        counts = (self.tensor_parallel, self.data_parallel, self.clip_tokens, self.max_model_len or 1)
        positive = self.pixel_cache_gib >= 0 and (self.kv_cache_gib is None or self.kv_cache_gib > 0)
        if min(counts) < 1 or not 0 < self.gpu_memory <= 1 or not positive:
            raise VitalError(
                f"impossible options {self}", "counts must be at least 1, memory above 0 and gpu_memory at most 1"
            )


def load_engine(
    checkpoint: Path,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    options: VllmOptions | None = None,
) -> VllmEngine:
    """Start vLLM with a checkpoint folder.

    Args:
        checkpoint: folder with config, safetensors, tokenizer and processor settings.
        device: ``auto``, or ``cpu`` or ``cuda``, which must be what the installed vLLM is built for.
        dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU), ``bfloat16``, ``float16`` or ``float32``.
        batch_size: most conversations that write at a time; others wait.
        options: see :class:`VllmOptions`.

    Raises:
        CheckpointError: if the checkpoint is refused (:func:`~vital_eval.engines.checkpoint.open_checkpoint`), or vLLM
            does not start with it.
    """
    options = options or VllmOptions()
    opened = open_checkpoint(checkpoint)
    kind = _device(device)
    context = _context(opened, options)
    try:
        tokenizer = load_tokenizer(opened.folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot load the tokenizer of {opened.folder}: {_first_line(error)}") from error
    encoder = make_encoder(opened, tokenizer)
    vocabulary = make_vocabulary(tokenizer, _ends(opened))
    view = tempfile.TemporaryDirectory(prefix="vital-eval-vllm-")
    folder = Path(view.name) / opened.folder.resolve().name
    folder.mkdir()
    write_view(opened, folder, min(options.clip_tokens, context))
    handle, name = tempfile.mkstemp(prefix="vital-eval-vllm-", suffix=".log")
    os.close(handle)
    log = Path(name)
    arguments = _arguments(folder, kind, _dtype(dtype, kind), batch_size, context, options)
    try:
        core, guard = start(arguments, log)
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError) as error:
        view.cleanup()
        raise CheckpointError(
            f"vLLM does not start with {opened.folder}: {cause_in(log) or _first_line(error)}",
            f"the whole story is in {log}",
        ) from error
    banned = tuple(token for token in BANNED_TOKENS if token in tokenizer.get_vocab())
    parts = _Parts(opened, guard, encoder, vocabulary, banned, view, log)
    return VllmEngine(parts, core, _info(opened, core, kind, options), context, options.data_parallel)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What the engine is made of besides vLLM itself; ``guard``, ``view`` and ``log`` end with it."""

    checkpoint: Checkpoint
    guard: Guard
    encoder: Encoder
    vocabulary: Vocabulary
    banned: tuple[str, ...]
    view: tempfile.TemporaryDirectory[str]
    log: Path


class VllmEngine:
    """An :class:`~vital_eval.engine.Engine` over vLLM's asynchronous engine.

    vLLM lives in an event loop of its own, so that callers may come and go with theirs.

    Args:
        parts: what :func:`load_engine` put together.
        core: an ``AsyncLLM``.
        info: who answers.
        context: most tokens of a conversation.
        copies: of the model.
    """

    def __init__(self, parts: _Parts, core: Any, info: EngineInfo, context: int, copies: int) -> None:
        self._parts = parts
        self._core = core
        self._info = info
        self._context = context
        self._copies = copies
        self._loop = BackgroundLoop("vllm-engine")
        # One thread: the tokenizer is not made for several.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm-prompts")
        self._numbers = itertools.count()
        self._homes: dict[str, int] = {}
        self._under_way = 0
        self._gate = asyncio.Lock()
        self._spoilt = ""
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        """Return who answers: the checkpoint it was loaded from, whatever weights it was given since."""
        return self._info

    async def generate(self, request: GenerationRequest) -> Generation:
        """Write one turn; see :class:`~vital_eval.engine.Engine`."""
        asked = time.monotonic()
        generation: Generation = await self._in_loop(self._generate(request, asked))
        return dataclasses.replace(generation, seconds=time.monotonic() - asked)

    def release(self, episode: str) -> None:
        """Forget with which copy of the model an episode stayed; its keys and values fade from vLLM's cache."""
        self._loop.call(self._homes.pop, episode, None)

    async def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Speak with these weights from now on; nothing computed with the old ones is used again.

        Args:
            weights: all of the model's parameters by their names in transformers, tied ones once or twice; of any float
                type and on any device. They travel through a file in memory that vLLM's processes read.

        Raises:
            CheckpointError: if a tensor is missing, unknown, or of another shape; no weight is changed then.
            EngineError: if requests are under way, or vLLM fails; the engine is of no use after the latter.
        """
        check_weights(weights, self._parts.checkpoint)
        try:
            folder = await asyncio.to_thread(write_weights, weights, self._parts.checkpoint)
        except OSError as error:
            raise EngineError(f"cannot write the weights for vLLM: {_first_line(error)}", "make room") from error
        try:
            await self._in_loop(self._load(folder.name))
        finally:
            folder.cleanup()

    async def weights_fingerprint(self) -> str:
        """Return a hash, 16 hexadecimal digits, of the weights as they lie in vLLM's processes now.

        Equal weights under equal options have equal hashes, however they got there; compare it with that of an engine
        that was started with them.
        """
        digests = await self._in_loop(self._core.collective_rpc("weight_digests"))
        lines = [f"{rank} {name} {digest}" for rank, part in enumerate(digests) for name, digest in part.items()]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]

    async def close(self) -> None:
        """Give up what is being written, end vLLM's processes and remove its files."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._loop.stop()
        end(self._core, self._parts.guard)
        self._core = None
        # vLLM's object is part of a cycle; left to the end of the interpreter it would fail there, and say so.
        gc.collect()
        self._writer.shutdown(wait=True)
        self._parts.view.cleanup()
        self._parts.log.unlink(missing_ok=True)

    async def _in_loop(self, coroutine: Any) -> Any:
        """Run a coroutine beside vLLM and wait for it."""
        if self._closed:
            coroutine.close()
            raise EngineError("the engine is closed")
        try:
            return await asyncio.wrap_future(self._loop.submit(coroutine))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise EngineError("the engine was closed while it was writing") from None
            raise

    async def _generate(self, request: GenerationRequest, asked: float) -> Generation:
        async with self._gate:
            if self._spoilt:
                raise EngineError(self._spoilt, "start again from the last checkpoint")
            self._under_way += 1
        try:
            return await self._answer(request, asked)
        finally:
            self._under_way -= 1

    async def _answer(self, request: GenerationRequest, asked: float) -> Generation:
        parts = self._parts
        loop = asyncio.get_running_loop()
        prompt, videos = await loop.run_in_executor(self._writer, self._prepare, request)
        room = self._context - len(prompt.ids)
        params = sampling_params(request.sampling, parts.vocabulary, parts.banned, request.stop, request.seed, room)
        for _ in range(_TRIES):
            output = await self._ask(request, prompt, videos, params)
            if output.outputs[0].finish_reason != "error":
                break
        written = output.outputs[0]
        finish = _finish(written)
        queue, prefill = _waits(output.metrics, asked)
        return Generation(
            token_ids=tuple(written.token_ids),
            text=turn_text(parts.vocabulary, prompt.ids, written.token_ids, finish, request.stop),
            finish=finish,
            prompt_tokens=len(prompt.ids),
            cached_tokens=output.num_cached_tokens or 0,
            visual_tokens=prompt.visual_tokens,
            queue_seconds=queue,
            prefill_seconds=prefill,
        )

    def _prepare(self, request: GenerationRequest) -> tuple[Prompt, list[VideoInput]]:
        encoder = self._parts.encoder
        try:
            prompt = encoder.prompt(request.conversation)
        except ValueError as error:
            raise EngineError(f"cannot encode the conversation: {error}") from error
        if len(prompt.ids) >= self._context:
            raise ContextOverflowError(f"{len(prompt.ids)} tokens do not fit into {self._context}")
        return prompt, [video_input(clip, encoder.checkpoint) for clip in clips_of(request.conversation)]

    async def _ask(
        self, request: GenerationRequest, prompt: Prompt, videos: list[VideoInput], params: vllm.SamplingParams
    ) -> Any:
        from vllm.exceptions import VLLMError

        core = self._core
        given = {"prompt_token_ids": list(prompt.short), "multi_modal_data": {"video": videos} if videos else {}}
        try:
            (rendered,) = await core.renderer.render_cmpl_async([given])
            if tuple(rendered["prompt_token_ids"]) != prompt.ids:
                raise EngineError(
                    f"vLLM reads the prompt as {len(rendered['prompt_token_ids'])} tokens that are not the "
                    f"{len(prompt.ids)} of the checkpoint's own template",
                    "use a version of vLLM that the tests were run with (docs/engines.md)",
                )
            stream = core.generate(
                rendered, params, f"turn-{next(self._numbers)}", data_parallel_rank=self._home(request.episode)
            )
            async with contextlib.aclosing(stream) as outputs:
                async for output in outputs:
                    if output.finished:
                        return output
        except (VLLMError, ValueError, RuntimeError, AssertionError) as error:
            died = f"; the whole story is in {self._parts.log}" if core.errored else ""
            problem = f"vLLM failed on a request: {type(error).__name__}: {_first_line(error)}{died}"
            raise EngineError(problem) from error
        raise EngineError("vLLM ended a request without an answer")

    def _home(self, episode: str) -> int | None:
        """Return the copy of the model that holds an episode's keys and values; a new one goes to the idlest."""
        if self._copies == 1:
            return None
        if episode not in self._homes:
            load = Counter(self._homes.values())
            self._homes[episode] = min(range(self._copies), key=lambda copy: load[copy])
        return self._homes[episode]

    async def _load(self, folder: str) -> None:
        from vllm.exceptions import VLLMError

        core = self._core
        async with self._gate:
            if self._under_way:
                raise EngineError(
                    f"{self._under_way} requests are under way", "wait for them before weights are exchanged"
                )
            try:
                await core.pause_generation(mode="abort", clear_cache=True)
                await core.collective_rpc("take_over_weights", args=(folder,))
                # Keys, values and visual features of the old weights are wrong for the new ones.
                await core.reset_encoder_cache()
                if not await core.reset_prefix_cache():
                    raise RuntimeError("its prefix cache cannot be dropped")
                await core.resume_generation()
            except (VLLMError, ValueError, RuntimeError, AssertionError) as error:
                self._spoilt = f"vLLM failed to take over weights: {_first_line(error)}"
                raise EngineError(self._spoilt, f"the whole story is in {self._parts.log}") from error


def _finish(written: Any) -> FinishReason:
    if written.finish_reason == "length":
        return FinishReason.LENGTH
    if written.finish_reason == "stop":
        return FinishReason.STOP_STRING if isinstance(written.stop_reason, str) else FinishReason.END_OF_TURN
    raise EngineError(f"vLLM gave up a request ({written.finish_reason})")


def _waits(metrics: Any, asked: float) -> tuple[float | None, float | None]:
    """Return the seconds until a batch took the request up, preparing its pixels included, and then to its first token.

    vLLM's processes are on this machine, where all of them read the same monotonic clock.
    """
    if metrics is None or not asked <= metrics.scheduled_ts <= metrics.first_token_ts:
        return None, None
    return metrics.scheduled_ts - asked, metrics.first_token_ts - metrics.scheduled_ts


def _arguments(
    folder: Path, kind: str, dtype: str, batch_size: int, context: int, options: VllmOptions
) -> dict[str, Any]:
    cache = options.kv_cache_gib or (_CPU_CACHE_GIB if kind == "cpu" else None)
    return {
        "model": str(folder),
        "load_format": "safetensors",
        "worker_extension_cls": "vital_eval.engines.vllm_worker.WeightKeeper",
        "trust_remote_code": False,
        # Only ours count: a checkpoint's own decoding settings (a repetition penalty, say) must not creep in.
        "generation_config": "vllm",
        "dtype": dtype,
        "max_model_len": context,
        "max_num_seqs": batch_size,
        "tensor_parallel_size": options.tensor_parallel,
        "data_parallel_size": options.data_parallel,
        "gpu_memory_utilization": options.gpu_memory,
        "kv_cache_memory_bytes": None if cache is None else int(cache * 2**30),
        "mm_processor_cache_gb": options.pixel_cache_gib,
        "limit_mm_per_prompt": {"video": _MOST_CLIPS, "image": 0},
        "enable_prefix_caching": True,
        "enforce_eager": options.enforce_eager,
        # They tell how long requests waited; nothing is logged, for nobody asks vLLM to.
        "disable_log_stats": False,
    }


def _info(checkpoint: Checkpoint, core: Any, kind: str, options: VllmOptions) -> EngineInfo:
    pixels = checkpoint.pixels
    model = core.vllm_config.model_config
    return EngineInfo(
        name="vllm",
        model=checkpoint.folder.resolve().name,
        fingerprint=checkpoint.fingerprint,
        geometry=FrameGeometry(pixels.patch * pixels.merge, pixels.temporal),
        details=MappingProxyType(
            {
                "vllm": vllm.__version__,
                "torch": importlib.metadata.version("torch"),
                "transformers": importlib.metadata.version("transformers"),
                "device": kind,
                "dtype": str(model.dtype).removeprefix("torch."),
                "max_model_len": str(model.max_model_len),
                "tensor_parallel": str(options.tensor_parallel),
                "data_parallel": str(options.data_parallel),
                "enforce_eager": str(options.enforce_eager).lower(),
                "video_text": "one block a temporal patch behind its time"
                if checkpoint.model_type == "qwen3_vl"
                else "one block a video",
            }
        ),
    )


def _context(checkpoint: Checkpoint, options: VllmOptions) -> int:
    text = checkpoint.config.get("text_config") or checkpoint.config
    own = text.get("max_position_embeddings")
    if not isinstance(own, int):
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'} has no max_position_embeddings", "the checkpoint is incomplete"
        )
    if options.max_model_len is not None and options.max_model_len > own:
        raise CheckpointError(
            f"max_model_len {options.max_model_len} is beyond the checkpoint's context of {own}", "lower it"
        )
    return options.max_model_len or own


def _ends(checkpoint: Checkpoint) -> int | list[int] | None:
    """Return the ids that end a turn besides the tokenizer's own."""
    path = checkpoint.folder / "generation_config.json"
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON", "the checkpoint is damaged; copy it again") from error
    text = checkpoint.config.get("text_config") or {}
    if named is None:
        named = checkpoint.config.get("eos_token_id", text.get("eos_token_id"))
    ends: int | list[int] | None = named
    return ends


def _device(name: str) -> str:
    from vllm.platforms import current_platform

    kind = str(current_platform.device_type)
    if not kind:
        raise CheckpointError("no GPU that vLLM can use", "use --engine hf, or a build of vLLM for this machine")
    if name not in {"auto", kind}:
        raise CheckpointError(
            f"the vLLM installed here runs on {kind}, not on {name!r}",
            "use auto; CUDA_VISIBLE_DEVICES chooses among several GPUs",
        )
    return kind


def _dtype(name: str, kind: str) -> str:
    if name == "auto":
        return "float32" if kind == "cpu" else "bfloat16"
    if name not in {"float32", "bfloat16", "float16"}:
        raise CheckpointError(f"unknown dtype {name!r}", "use auto, float32, bfloat16 or float16")
    return name


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
