"""verl's data set of prompts, with videos read as evaluation reads them (``data.custom_cls``)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

from .frames import VerlVideo, to_verl, viewing

Messages = Sequence[Mapping[str, Any]]


class VitalRLDataset(RLHFDataset):  # type: ignore[misc]
    """Rows that :mod:`~.rows` wrote.

    Only the reading of videos differs from verl: frames are chosen, resized, timed and, if the protocol asks for it,
    marked with the clock by this package, below the media folder of the run and nowhere else.
    """

    @classmethod
    async def process_multi_modal_info(
        cls, messages: Messages, image_patch_size: int, config: Mapping[str, Any]
    ) -> tuple[None, list[VerlVideo] | None, None]:
        """Read the videos of a prompt.

        Args:
            messages: content parts of type ``video`` name a video below the media folder.
            image_patch_size: not used: the size of a visual token is part of the run's settings.
            config: ``data`` of the run's configuration.

        Returns:
            No images, the videos or ``None``, no sounds.

        Raises:
            MediaError: if a video cannot be read.
        """
        del image_patch_size
        return None, await asyncio.to_thread(cls._read, messages, config), None

    @classmethod
    def _process_multi_modal_info(
        cls, messages: Messages, image_patch_size: int, config: Mapping[str, Any]
    ) -> tuple[None, list[VerlVideo] | None, None]:
        del image_patch_size
        return None, cls._read(messages, config), None

    @staticmethod
    def _read(messages: Messages, config: Mapping[str, Any]) -> list[VerlVideo] | None:
        view = viewing(config["vital"])
        return [to_verl(view.whole(name)) for name in _videos(messages)] or None


def _videos(messages: Messages) -> Iterator[str]:
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            yield from (str(part["video"]) for part in content if part["type"] == "video")
