"""What verl finds by name: estimator, tool, engine; and that the package alone needs no verl."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .support import make_job

NEEDS_VERL = "verl is installed in an environment of its own (tox -e verl)"


def run(code: str, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_package_alone_imports_neither_verl_nor_torch() -> None:
    code = "import sys, vital_eval.training.verl_plugin; print({'verl', 'torch', 'omegaconf'} & set(sys.modules))"
    assert run(code) == "set()"


def test_importing_verl_registers_the_estimator_only_if_it_is_told_to() -> None:
    pytest.importorskip("verl", reason=NEEDS_VERL)
    shim = (Path(__file__).parent / "shim.py").read_text(encoding="utf-8")
    code = "import verl; from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as r; print('dgrpo' in r)"
    code = f"{shim}\n{code}"
    module = "vital_eval.training.verl_plugin.registration"
    assert run(code, VERL_USE_EXTERNAL_MODULES=module, VERL_USE_EXTERNAL_PLUGINS="none") == "True"
    assert run(code, VERL_USE_EXTERNAL_MODULES="", VERL_USE_EXTERNAL_PLUGINS="none") == "False"


def test_the_tool_from_its_configuration(tmp_path: Path, media: Path) -> None:
    pytest.importorskip("verl", reason=NEEDS_VERL)
    from verl.tools.tool_registry import initialize_tools_from_config

    job = make_job(4, tmp_path, media, tmp_path)
    (tool,) = initialize_tools_from_config(str(job.tools_file))
    assert tool.name == "get_video_clip_frame"

    async def call(arguments: dict[str, Any], video: str = "short.mp4") -> Any:
        instance, _ = await tool.create(create_kwargs={"video": video})
        found = await tool.execute(instance, arguments)
        await tool.release(instance)
        return found

    response, worth, metrics = asyncio.run(call({"start_time": "2", "end_time": 9.5}))
    (frames, metadata), *more = response.video
    assert not more
    assert frames.shape[1] == 3
    assert metadata["total_num_frames"] == len(frames)
    assert response.text == "These are the frames from 2.00 to 8.00 seconds. (end moved to the end of the video)"
    assert (worth, metrics) == (1.0, {"error": ""})
    for arguments, video, code in (
        ({"start_time": 5, "end_time": 2}, "short.mp4", "reversed"),
        ({"start_time": 1}, "short.mp4", "missing-argument"),
        ({"start_time": 1, "end_time": 90}, "short.mp4", "out-of-range"),
        ({"start_time": 1, "end_time": 3}, "gone.mp4", "media-missing"),
        ({"start_time": 1, "end_time": 3}, "../outside.mp4", "media-outside-root"),
        ({"start_time": 1, "end_time": 3}, "", "media-outside-root"),
    ):
        response, worth, metrics = asyncio.run(call(arguments, video))
        assert (response.video, worth, metrics) == (None, 0.0, {"error": code})
        assert response.text.startswith("The tool call failed: ")


def test_the_engine_is_taken_for_nvidia_devices_and_freezes_the_vision_tower(
    plain_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("verl", reason=NEEDS_VERL)
    from torch import nn
    from transformers import Qwen2_5_VLForConditionalGeneration
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    from vital_eval.errors import CheckpointError
    from vital_eval.training.verl_plugin.frozen_engine import FrozenVisionEngine, freeze_vision_tower

    monkeypatch.setenv("VERL_ENGINE_DEVICE", "cuda")
    monkeypatch.setenv("VERL_ENGINE_VENDOR", "nvidia")
    assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is FrozenVisionEngine
    # Control: the other strategy has verl's own engine, which would train the tower.
    assert EngineRegistry.get_engine_cls("language_model", "fsdp") is FSDPEngineWithLMHead
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(plain_checkpoint)
    frozen = freeze_vision_tower(model)
    assert frozen == len(list(model.model.visual.parameters()))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert not any("visual" in name for name in trained)
    with pytest.raises(CheckpointError, match="visual"):
        freeze_vision_tower(nn.Linear(2, 2))


def test_verl_still_ignores_its_setting_for_the_vision_tower() -> None:
    verl = pytest.importorskip("verl", reason=NEEDS_VERL)
    # The day an engine reads it, this package's engine is no longer needed.
    used = [
        path
        for path in Path(verl.__file__).parent.rglob("*.py")
        if "freeze_vision_tower" in path.read_text(encoding="utf-8")
    ]
    assert [path.name for path in used] == ["actor.py"]
