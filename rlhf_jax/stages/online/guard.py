"""What is done about a policy that runs away from its reference: pull it back once, then end the run."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any

from rlhf_jax.stages.online.config import OnlineConfig

_PULLED = "pulled_back"  # in the host values of a checkpoint: the step of the evaluation


class KLGuard:
    """A guard that acts when the KL on held-out prompts is above ``config.stop_kl``.

    The first evaluation above it sets beta to the controller's maximum, for the next iteration to begin with; a later
    one above it ends the run. Where no controller steers beta (``kl.kind`` is ``fixed`` or ``objective``), there is
    nothing to pull with, and the first one ends it.

    Args:
        stage: names the stage in messages.
        config: its ``stop_kl`` and ``kl`` are read.
        host: JSON values that travel in the checkpoint; what the guard must remember is kept there.

    Example:
        >>> from rlhf_jax.stages import KLConfig, PPOConfig
        >>> guard = KLGuard("ppo", PPOConfig(stop_kl=20.0, kl=KLConfig(kind="fixed")), {})
        >>> guard.check(10, 19.0), guard.check(20, 31.0)
        ('', 'the KL on held-out prompts is 31.0 nats a response, above stop_kl (20)')
    """

    def __init__(self, stage: str, config: OnlineConfig, host: MutableMapping[str, Any]):
        self._stage, self._last, self._host = stage, config.iterations, host
        self._limit, self._kl = config.stop_kl, config.kl

    def check(self, step: int, kl: float) -> str:
        """Look at the KL of an evaluation, and return why the run should stop, or an empty text."""
        if not self._limit or kl <= self._limit or step >= self._last:
            return ""  # after the last iteration there is nothing to pull back or to stop
        seen = f"the KL on held-out prompts is {kl:.1f} nats a response, above stop_kl ({self._limit:g})"
        if self._kl.kind in ("fixed", "objective"):
            return seen
        if _PULLED in self._host:
            return f"{seen}, although the KL coefficient was set to its maximum after step {self._host[_PULLED]}"
        self._host[_PULLED] = step
        pulled = f"the KL coefficient is set to its maximum, {self._kl.maximum:g}, to pull the policy back"
        print(f"{self._stage}: warning: at step {step} {seen}: {pulled}", file=sys.stderr)
        return ""

    def pulls(self, done: int) -> bool:
        """Whether the iteration after ``done`` of them must begin with the largest KL coefficient."""
        return self._host.get(_PULLED) == done
