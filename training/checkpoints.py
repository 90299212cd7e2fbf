"""Trained checkpoints: whole or not there at all, and readable by whatever read the one they came from."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedModel

from vital_eval.atomic import sync_folder
from vital_eval.errors import CheckpointError

from .adapters import require_finite

#: Files of the first checkpoint that hold or index weights; the trained ones take their place.
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth")


def save_trained(model: PreTrainedModel, source: Path, folder: Path) -> None:
    """Write a trained model as a checkpoint folder, atomically; what earlier tries left when they were killed goes.

    Configuration, tokenizer, chat template and processor settings are those of ``source``, file by file, so nothing of
    how a conversation is written changes on the way.

    Args:
        model: its weights are written.
        source: the checkpoint folder that it was loaded from.
        folder: new folder; a complete one of the same name is replaced.

    Raises:
        CheckpointError: if it cannot be written.
        VitalError: if a weight is not finite.
    """
    from safetensors import SafetensorError

    require_finite(model, f"checkpoint {folder}")
    temporary: Path | None = None
    # A folder cannot be replaced in one step; the old one stays readable under another name until then.
    old = folder.with_name(f".{folder.name}.old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}.*"):
            if left != old:
                shutil.rmtree(left)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)
        model.save_pretrained(temporary, safe_serialization=True)
        for path in sorted(source.iterdir()):
            if path.is_file() and not path.name.endswith(_WEIGHTS):
                shutil.copyfile(path, temporary / path.name)
        for path in temporary.iterdir():
            path.chmod(0o644)  # weights are written for their owner alone
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        temporary.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        # Weights are written by a library that has an error of its own for a full disk.
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(
            f"cannot write the checkpoint {folder}: {problem}",
            "free some space and start again; training goes on from the last state that was saved",
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary)
