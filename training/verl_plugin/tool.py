"""The harness's visual tool as a tool of verl."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from vital_eval.clip import Clip
from vital_eval.episode import render_notes
from vital_eval.errors import MediaError
from vital_eval.prompts import render_tool_error, render_tool_result
from vital_eval.span import Span
from vital_eval.toolbox import GetVideoClipFrame, ToolError, ToolLimits, run_call

from .frames import to_verl, viewing

#: What a call that succeeded is worth in verl's list of tool rewards. It is only counted; see :mod:`~.reward`.
SUCCEEDED, FAILED = 1.0, 0.0


class ClipTool(BaseTool):  # type: ignore[misc]
    """``get_video_clip_frame``: checks, limits and frames are those of :class:`vital_eval.toolbox.GetVideoClipFrame`.

    Args:
        config: see :func:`~.frames.viewing`; ``type`` is verl's.
        tool_schema: left out; the tool's own schema is used.
    """

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        self._viewing = viewing(config)
        self._tool = GetVideoClipFrame()
        self._videos: dict[str, str] = {}
        own = OpenAIFunctionToolSchema.model_validate(self._tool.schema())
        super().__init__(config, tool_schema or own)

    async def create(
        self, instance_id: str | None = None, create_kwargs: dict[str, Any] | None = None
    ) -> tuple[str, ToolResponse]:
        """Open the tool for one call.

        Args:
            instance_id: name of the instance; a new one if ``None``.
            create_kwargs: ``video``, the record's video below the media folder.
        """
        instance = instance_id or str(uuid4())
        self._videos[instance] = str((create_kwargs or {}).get("video") or "")
        return instance, ToolResponse()

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], agent_data: Any = None
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """Carry out a call.

        Args:
            instance_id: as :meth:`create` returned it.
            parameters: the arguments that the model wrote, untrusted.
            agent_data: not looked at: the tool sees its record's own video only.

        Returns:
            The clip and the words beside it, 1.0 and no code; or the words for a failed call, 0.0 and its code.
        """
        del agent_data
        texts = self._viewing.protocol.prompt
        video = self._videos[instance_id]
        call = json.dumps({"name": self._tool.name, "arguments": parameters})
        try:
            result = await run_call(call, {self._tool.name: self._tool}, await self._limits(video), self._reader(video))
        except ToolError as error:
            return ToolResponse(text=render_tool_error(texts, error.message)), FAILED, {"error": error.code}
        span = result.clip.span
        text = render_tool_result(texts, span.start, span.end, render_notes(result.notes))
        return ToolResponse(text=text, video=[to_verl(result.clip)]), SUCCEEDED, {"error": ""}

    async def release(self, instance_id: str) -> None:
        """Forget a call."""
        self._videos.pop(instance_id, None)

    async def _limits(self, video: str) -> ToolLimits:
        try:
            info = await asyncio.to_thread(self._viewing.source.probe, video)
        except MediaError as error:
            raise ToolError(f"media-{error.kind}", "the frames of this span cannot be read") from error
        protocol = self._viewing.protocol
        return ToolLimits(info.duration, protocol.overrun_seconds, protocol.min_clip_seconds)

    def _reader(self, video: str) -> Any:
        async def read(span: Span) -> Clip:
            viewing = self._viewing
            return await asyncio.to_thread(
                viewing.source.read, video, span, viewing.protocol.clip_view, viewing.spatial_factor
            )

        return read
