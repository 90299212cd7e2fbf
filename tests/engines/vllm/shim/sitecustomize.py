"""Lets torchvision's stock wheel load beside a CPU build of torch: on PYTHONPATH, so that vLLM's processes do it too.

The wheel's library is linked to CUDA and does not load; ``import torchvision`` then fails on two operators that it
would have brought. Nothing here calls them: declaring them is enough.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


class _DeclareOperators(importlib.abc.MetaPathFinder):
    """Waits for the import of torchvision, so that processes without it pay nothing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Declare the operators, unless the library loads, and leave the import to the others."""
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname)
        if spec is not None and spec.origin is not None:
            _declare(Path(spec.origin).parent)
        return spec


def _declare(folder: Path) -> None:
    import torch

    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            fragment.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        # A library that is collected takes its operators with it.
        sys.modules["_torchvision_operators"] = fragment  # type: ignore[assignment]


sys.meta_path.insert(0, _DeclareOperators())
