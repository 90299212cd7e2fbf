"""Loaded by verl in every process (``VERL_USE_EXTERNAL_MODULES`` or the entry-point group ``verl.plugins``).

The launcher uses the variable, because verl hides the error of an entry point that fails.

Only the advantage estimator has to be there before a run's configuration is read. Data sets, reward, agent loop, tool
and engine are named in the configuration and imported where they are used.
"""

from __future__ import annotations

from verl.trainer.ppo.core_algos import register_adv_est

from .estimator import dgrpo
from .names import ESTIMATOR

register_adv_est(ESTIMATOR)(dgrpo)
