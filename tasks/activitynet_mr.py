"""ActivityNet Captions as moment retrieval, split val_2."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.sample import Sample
from vital_eval.span import Window

from .annotations import checked
from .moment_retrieval import MomentRetrieval, captioned_moments, captioned_training_moments


class ActivityNetMR(MomentRetrieval):
    """ActivityNet-MR: 17,031 queries on 4,885 videos, ``val_2.json`` (the split that Time-R1 calls test)."""

    name: ClassVar[str] = "activitynet_mr"
    title: ClassVar[str] = "ActivityNet-MR"

    def annotation_files(self) -> tuple[str, ...]:
        """Return the val_2 file."""
        return ("val_2.json",)

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the val_2 queries."""
        return checked(captioned_moments(folder / "val_2.json", self.name), folder)

    def training_moments(self, folder: Path) -> tuple[tuple[Window, float], ...]:
        """Read the windows of the training split, if ``train.json`` lies beside the test file."""
        return captioned_training_moments(folder / "train.json")
