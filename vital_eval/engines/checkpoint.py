"""What a checkpoint folder must be before anything of it is loaded: safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vital_eval.errors import CheckpointError

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
#: Files besides the weights that can move a score.
_IDENTITY_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


#: Weight files up to this many bytes are hashed whole.
_READ_WHOLE = 256 << 20


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """How frames become patches.

    Attributes:
        patch: side of a patch in pixels.
        merge: patches merged per side into one visual token.
        temporal: frames per patch.
        mean: per-channel mean subtracted after scaling to [0, 1].
        std: per-channel standard deviation divided by.
    """

    patch: int
    merge: int
    temporal: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked checkpoint folder.

    Attributes:
        folder: where it is.
        model_type: ``qwen2_5_vl`` or ``qwen3_vl``.
        config: content of ``config.json``.
        pixels: see :class:`PixelSettings`.
        fingerprint: 16 hexadecimal digits over weights (of files above 256 MiB, 64 stripes), configuration, tokenizer
            and chat template.
    """

    folder: Path
    model_type: str
    config: Mapping[str, Any]
    pixels: PixelSettings
    fingerprint: str


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check a checkpoint folder and read its settings.

    Raises:
        CheckpointError: if the folder is missing or incomplete, holds pickled weights only, a file named
            safetensors is something else, the checkpoint asks for remote code, or the family is not supported.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"checkpoint folder {folder} does not exist", "give the path of a local checkpoint folder"
        )
    config = _read_json(folder / "config.json")
    if "auto_map" in config:
        raise CheckpointError(
            f"{folder / 'config.json'} asks for remote code (auto_map)", "vital-eval never runs code from a checkpoint"
        )
    model_type = str(config.get("model_type", ""))
    if model_type not in {"qwen2_5_vl", "qwen3_vl"}:
        raise CheckpointError(
            f"{folder} is of type {model_type!r}", "the hf engine loads qwen2_5_vl and qwen3_vl checkpoints"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE_SUFFIXES)
        found = f" (found {', '.join(pickles[:3])}, which can run code when loaded)" if pickles else ""
        raise CheckpointError(f"no .safetensors weights in {folder}{found}", "convert the checkpoint to safetensors")
    for path in weights:
        _check_safetensors(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"no {name} in {folder}", "save the tokenizer beside the weights")
    return Checkpoint(folder, model_type, config, _pixel_settings(folder, config), _fingerprint(folder, weights))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist", "a checkpoint folder needs it")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON", "the checkpoint is damaged; copy it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold a JSON object", "the checkpoint is damaged; copy it again")
    return data


def _check_safetensors(path: Path) -> None:
    # A pickle renamed .safetensors is refused by its content: the header is a length and then a JSON object.
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or length > size - 8 or start[8:9] != b"{":
        raise CheckpointError(
            f"{path} is not a safetensors file", "convert the checkpoint again; do not rename other formats"
        )


def _pixel_settings(folder: Path, config: Mapping[str, Any]) -> PixelSettings:
    vision = config.get("vision_config", {})
    processor: dict[str, Any] = {}
    for name, key in (
        ("video_preprocessor_config.json", None),
        ("processor_config.json", "video_processor"),
        ("preprocessor_config.json", None),
    ):
        path = folder / name
        if path.is_file():
            data = _read_json(path)
            processor = data.get(key, {}) if key else data
            if "image_mean" in processor:
                break
    try:
        mean, std = tuple(map(float, processor["image_mean"])), tuple(map(float, processor["image_std"]))
        patch, merge = int(vision["patch_size"]), int(vision["spatial_merge_size"])
        temporal = int(vision["temporal_patch_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} does not say how frames are normalised ({error})",
            "it needs patch sizes in config.json and image_mean / image_std in a processor config",
        ) from error
    if min(patch, merge, temporal) < 1:
        raise CheckpointError(f"{folder / 'config.json'} has a patch size below 1", "check vision_config")
    if len(mean) != 3 or len(std) != 3:
        raise CheckpointError(
            f"image_mean or image_std of {folder} does not have three values", "check the processor config"
        )
    return PixelSettings(patch, merge, temporal, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def _fingerprint(folder: Path, weights: list[Path]) -> str:
    # Weights of real checkpoints are tens of gigabytes: of large files, the size and a stripe of 64 KiB from each of 64
    # places (the header among them) tell checkpoints of one training run apart without reading everything.
    digest = hashlib.sha256()
    for name in _IDENTITY_FILES:
        path = folder / name
        if path.is_file():
            digest.update(name.encode() + b"\0" + path.read_bytes())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _READ_WHOLE:
                digest.update(file.read())
                continue
            for stripe in range(64):
                file.seek(size * stripe // 64)
                digest.update(file.read(65_536))
    return digest.hexdigest()[:16]
