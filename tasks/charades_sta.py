"""Charades-STA, test split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.sample import Sample

from .annotations import checked
from .moment_retrieval import MomentRetrieval, captioned_moments


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
