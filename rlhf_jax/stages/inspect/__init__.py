"""Every array that a stage holds on its devices, from shapes alone: nothing is compiled, and no weight is made."""

from rlhf_jax.stages.inspect.arrays import Arrays, Held
from rlhf_jax.stages.inspect.run import arrays_of

__all__ = ["Arrays", "Held", "arrays_of"]
