"""Our pixels, grids and prompts equal those of the official Hugging Face video processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .tiny import write_checkpoint


def test_pixels_and_prompts_equal_the_official_processors(tmp_path: Path) -> None:
    torchvision = os.environ.get("VITAL_TORCHVISION", "")
    if not Path(torchvision, "torchvision").is_dir():
        pytest.skip("VITAL_TORCHVISION does not name a folder with torchvision (tox provides one)")
    folders = [str(write_checkpoint(tmp_path / name, name)) for name in ("qwen2_5_vl", "qwen3_vl")]
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("official_processors.py")), *folders],
        env={**os.environ, "PYTHONPATH": torchvision},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for name, difference in found.items():
        if "control" in name:
            assert difference > 1e-3, name
        else:
            assert difference < 1e-5, (name, difference)
