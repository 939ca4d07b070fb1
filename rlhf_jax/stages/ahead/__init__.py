"""The programs of a stage, compiled ahead of time from shapes alone, for devices that need not be there."""

from rlhf_jax.stages.ahead.compiler import Compiler
from rlhf_jax.stages.ahead.figures import Ahead, Compiled, Work
from rlhf_jax.stages.ahead.run import compile_ahead, compile_for

__all__ = ["Ahead", "Compiled", "Compiler", "Work", "compile_ahead", "compile_for"]
