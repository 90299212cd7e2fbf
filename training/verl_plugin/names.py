"""Names by which verl's configuration, its rows and this package's modules find each other."""

from __future__ import annotations

#: The advantage estimator: ``algorithm.adv_estimator``.
ESTIMATOR = "dgrpo"
#: The agent loop and its reading of turns: ``rollout.agent.default_agent_loop`` and ``rollout.multi_turn.format``.
AGENT_LOOP = "vital"
#: The module that verl imports before anything else: ``VERL_USE_EXTERNAL_MODULES``.
REGISTRATION = "vital_eval.training.verl_plugin.registration"
#: Where the agent loop leaves the text of each turn that the model wrote, and the worth of each tool call.
TURNS, CALLS = "assistant_turns", "tool_rewards"
