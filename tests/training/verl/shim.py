"""Lets torchvision's stock wheel load beside a CPU build of torch: two operators are declared in CUDA builds only."""

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
if not torch.version.cuda:
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}{_SCHEMA}")
