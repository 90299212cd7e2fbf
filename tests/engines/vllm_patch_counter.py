"""Counts, inside vLLM's worker, the patches that go through the vision tower; imported there by its full name."""

from __future__ import annotations

from typing import Any

from vital_eval.engines.vllm_worker import WeightKeeper


class PatchCounter(WeightKeeper):
    """The engine's own worker extension, and a count."""

    patches: list[int]

    def count_patches(self) -> None:
        """Count from now on."""
        self.patches = []
        tower = self.model_runner.get_model().visual
        tower.register_forward_pre_hook(self._count, with_kwargs=True)

    def counted_patches(self) -> list[int]:
        """Return the patches of every pass since the last time, and forget them."""
        found, self.patches = self.patches, []
        return found

    def _count(self, tower: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        del tower
        values = given[0] if given else named["x"] if "x" in named else named["pixel_values"]
        self.patches.append(int(values.shape[0]))
