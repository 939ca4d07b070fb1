"""Checks for objectives, ours and the user's, and the tiny models and batches they run on.

    from rlhf_jax import testing
    testing.check_objective(my_objective)

raises ``ObjectiveError`` with the name of the first property that does not hold.
"""

from __future__ import annotations

from rlhf_jax.testing.check import check_objective
from rlhf_jax.testing.probes import ObjectiveError
from rlhf_jax.testing.short import check_arrays
from rlhf_jax.testing.tiny import EOS, PAD, VOCAB, tiny_batch, tiny_models

__all__ = ["EOS", "PAD", "VOCAB", "ObjectiveError", "check_arrays", "check_objective", "tiny_batch", "tiny_models"]
