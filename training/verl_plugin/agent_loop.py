"""verl's tool loop, with clips as tool results and the harness's own reading of turns."""

from __future__ import annotations

from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, ToolListWrap, register
from verl.experimental.agent_loop.tool_agent_loop import AgentData, AgentState, ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.utils.profiler import simple_timer

from vital_eval.parsing.turn import split_turn
from vital_eval.prompts import render_tool_error
from vital_eval.protocol import Mode
from vital_eval.toolbox import ToolError, called_name, parse_call

from .frames import viewing
from .names import AGENT_LOOP, TURNS
from .positions import use_reference_positions
from .tool import FAILED

#: Added to the logits of tokens that a model must never write: a pad without pixels makes the training forward fail.
_NEVER = -100.0
_VISUAL = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


@ToolParser.register(AGENT_LOOP)
class TurnParser(ToolParser):  # type: ignore[misc]
    """Reads a turn as evaluation does: thoughts are no calls, and the first whole call is the one that counts."""

    async def extract_tool_calls(
        self, responses_ids: list[int], tools: list[OpenAIFunctionToolSchema] | None = None
    ) -> tuple[str, list[FunctionCall]]:
        """Return the turn's text and its call, if any; the call's text stands unread in ``arguments``."""
        text = self.tokenizer.decode(responses_ids, skip_special_tokens=True)
        raw = split_turn(text).tool_call
        if raw is None:
            return text, []
        names = {tool.function.name: tool for tool in tools or ()}
        return text, [FunctionCall(name=called_name(raw, names), arguments=raw)]


class SplitRewardOutput(AgentLoopOutput):  # type: ignore[misc]
    """A rollout whose reward is laid on two tokens, so that an estimator can tell the task's part.

    verl gives a custom estimator no parts of a reward, only the sum a token. Format and tool bonus go to the first
    response token and the task's part to the last; every sum over tokens stays what it was.
    """

    def as_dict(self) -> dict[str, Any]:
        """See verl."""
        fields: dict[str, Any] = super().as_dict()
        scores: torch.Tensor | None = fields.get("rm_scores")
        task = self.extra_fields.get("reward_extra_info", {}).get("task")
        if scores is not None and task is not None and len(scores) > 1:
            scores[0], scores[-1] = self.reward_score - task, task
        return fields


@register(AGENT_LOOP)
class VitalAgentLoop(ToolAgentLoop):  # type: ignore[misc]
    """One rollout under the protocol of the run (``data.vital``).

    It differs from verl's loop in what would make training differ from evaluation:

    * a tool result may be a video (verl raises NotImplementedError);
    * a turn ends at ``</tool_call>`` or ``</answer>``; the end-of-turn token behind a call is put in and not trained;
    * each turn has its own token limit;
    * calls are read by the harness's parser, and failed ones are answered in the protocol's words;
    * visual tokens are never sampled;
    * positions follow the reference rule (:mod:`~.positions`).

    Args:
        tools: the tools offered, none in a mode without tools.
    """

    def __init__(self, *args: Any, tools: ToolListWrap | None = None, **kwargs: Any) -> None:
        super().__init__(*args, tools=tools, **kwargs)
        self._protocol = viewing(self.data_config.vital).protocol
        use_reference_positions(self.processor)
        unknown = self.tokenizer.unk_token_id
        ids = [self.tokenizer.convert_tokens_to_ids(token) for token in _VISUAL]
        self._never = {int(id_): _NEVER for id_ in ids if id_ is not None and id_ != unknown}
        self._end = int(self.tokenizer.convert_tokens_to_ids("<|im_end|>"))

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Play one rollout; see verl."""
        uses_tools = self._protocol.mode is Mode.TOOL
        sampling = {
            **sampling_params,
            "stop": ["</tool_call>", "</answer>"] if uses_tools else ["</answer>"],
            "include_stop_str_in_output": True,
            "logit_bias": self._never,
        }
        output = await super().run(sampling, priority, **kwargs)
        return SplitRewardOutput.model_construct(_fields_set=set(output.model_fields_set), **dict(output))

    async def _handle_generating_state(
        self, agent_data: AgentData, sampling_params: dict[str, Any], ignore_termination: bool = False
    ) -> AgentState:
        left = self.response_length - len(agent_data.response_mask)
        limited = {**sampling_params, "max_tokens": min(self._protocol.sampling.max_new_tokens, left)}
        state = await super()._handle_generating_state(agent_data, limited, ignore_termination)
        text = self.tokenizer.decode(agent_data.response_ids, skip_special_tokens=True)
        agent_data.extra_fields.setdefault(TURNS, []).append(text)
        return state

    async def _handle_processing_tools_state(self, agent_data: AgentData) -> AgentState:
        previous = list(agent_data.messages)
        with simple_timer("tool_calls", agent_data.metrics):
            response, worth, _ = await self._call_tool(agent_data.tool_calls[0], agent_data.tools_kwargs, agent_data)
        videos = response.video or []
        self._assert_mm_supported(bool(videos))
        content = [{"type": "video", "video": video} for video in videos]
        agent_data.messages.append({"role": "tool", "content": [*content, {"type": "text", "text": response.text}]})
        agent_data.tool_rewards.append(worth)
        ids, mask, log_probs = self._closed(agent_data)
        merged, mask, log_probs = await self.ct_merge_context_msg(
            previous, agent_data.messages, ids, mask, log_probs, tools=agent_data._active_tool_schemas
        )
        if len(mask) >= self.response_length:
            return AgentState.TERMINATED
        agent_data.prompt_ids, agent_data.response_mask = merged.token_ids, mask
        agent_data.response_logprobs = log_probs or []
        if videos:
            agent_data.video_data = [*(agent_data.video_data or []), *videos]
        agent_data.user_turns += 1
        return AgentState.GENERATING

    def _closed(self, agent_data: AgentData) -> tuple[list[int], list[int], list[float] | None]:
        """Return ids, mask and log-probabilities with the model's turn ended, by a token that is not trained."""
        ids, mask = list(agent_data.prompt_ids), list(agent_data.response_mask)
        log_probs = list(agent_data.response_logprobs) or None
        if ids[-1] != self._end:
            ids.append(self._end)
            mask.append(0)
            log_probs = None if log_probs is None else [*log_probs, 0.0]
        return ids, mask, log_probs

    def _build_assistant_message(self, content: str, agent_data: AgentData) -> dict[str, Any]:
        # Only the messages behind it are ever rendered; the turn itself stays the ids that were sampled.
        return {"role": "assistant", "content": content}

    async def _call_tool(
        self, tool_call: FunctionCall, tools_kwargs: dict[str, Any], agent_data: AgentData
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        active = agent_data._active_tools
        try:
            name, arguments = parse_call(tool_call.arguments)
            if name not in active:
                offered = ", ".join(sorted(active)) or "none"
                raise ToolError("unknown-tool", f"there is no such tool; offered: {offered}")
        except ToolError as error:
            text = render_tool_error(self._protocol.prompt, error.message)
            return ToolResponse(text=text), FAILED, {"error": error.code}
        tool = active[name]
        create = ((tools_kwargs or {}).get(name) or {}).get("create_kwargs") or {}
        instance, _ = await tool.create(create_kwargs=create)
        try:
            result: tuple[ToolResponse, float, dict[str, Any]] = await tool.execute(
                instance, arguments, agent_data=agent_data
            )
        finally:
            await tool.release(instance)
        return result
