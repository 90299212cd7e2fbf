"""Charades-STA, test split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.sample import Sample
from vital_eval.span import Window

from .annotations import checked
from .moment_retrieval import MomentRetrieval, captioned_moments, captioned_training_moments


class CharadesSTA(MomentRetrieval):
    """Charades-STA test: 3,720 queries on 1,334 indoor videos, ``charades_test.json`` (JSON form of Time-R1)."""

    name: ClassVar[str] = "charades_sta"
    title: ClassVar[str] = "Charades-STA"

    def annotation_files(self) -> tuple[str, ...]:
        """Return the test file."""
        return ("charades_test.json",)

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the test queries."""
        return checked(captioned_moments(folder / "charades_test.json", self.name), folder)

    def training_moments(self, folder: Path) -> tuple[tuple[Window, float], ...]:
        """Read the windows of the training split, if ``charades_train.json`` lies beside the test file."""
        return captioned_training_moments(folder / "charades_train.json")
