"""People compare what policies say: from a run or a file to a store of pairs, and to the page that raters use."""

from rlhf_jax.stages.people.asking import ask_people
from rlhf_jax.stages.people.config import CompareConfig
from rlhf_jax.stages.people.opening import compare, open_store

__all__ = ["CompareConfig", "ask_people", "compare", "open_store"]
