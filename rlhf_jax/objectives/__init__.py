"""What can be trained for: ``(Outputs, SequenceBatch) -> Loss``, one objective a file, built from ``losses``.

An objective says what each token (or pair) costs, which of them count and how they are averaged; forward passes,
gradients, micro-batches and devices are not its business. Hyperparameters are keyword-only; bind them with
``functools.partial``.

A file here that defines a function of its own name, ``-> Loss``, is an objective; it is found, no list is kept.
The imports below only tell type checkers and editors of those that have been here for a while.
"""

import importlib as _importlib
import pkgutil as _pkgutil
from types import FunctionType as _Function

from rlhf_jax.objectives.a2c import a2c as a2c
from rlhf_jax.objectives.cpo import cpo as cpo
from rlhf_jax.objectives.dapo import dapo as dapo
from rlhf_jax.objectives.dpo import dpo as dpo
from rlhf_jax.objectives.dr_grpo import dr_grpo as dr_grpo
from rlhf_jax.objectives.expert_iteration import expert_iteration as expert_iteration
from rlhf_jax.objectives.grpo import grpo as grpo
from rlhf_jax.objectives.gspo import gspo as gspo
from rlhf_jax.objectives.ipo import ipo as ipo
from rlhf_jax.objectives.kto import kto as kto
from rlhf_jax.objectives.likert import likert as likert
from rlhf_jax.objectives.online_dpo import online_dpo as online_dpo
from rlhf_jax.objectives.orpo import orpo as orpo
from rlhf_jax.objectives.plackett_luce import plackett_luce as plackett_luce
from rlhf_jax.objectives.ppo import ppo as ppo
from rlhf_jax.objectives.reinforce import reinforce as reinforce
from rlhf_jax.objectives.reward_model import reward_model as reward_model
from rlhf_jax.objectives.rloo import rloo as rloo
from rlhf_jax.objectives.robust_dpo import robust_dpo as robust_dpo
from rlhf_jax.objectives.sft import sft as sft
from rlhf_jax.objectives.simpo import simpo as simpo
from rlhf_jax.objectives.slic import slic as slic
from rlhf_jax.types import Loss as _Loss


def _found() -> dict[str, _Function]:
    found = {}
    for file in _pkgutil.iter_modules(__path__):
        value = vars(_importlib.import_module(f"rlhf_jax.objectives.{file.name}")).get(file.name)
        if isinstance(value, _Function) and value.__annotations__.get("return") in ("Loss", _Loss):
            found[file.name] = value
    return found


_FOUND = _found()
vars().update(_FOUND)

# What `--objective NAME` finds, in alphabetical order.
NAMES = tuple(sorted(_FOUND))

__all__ = ["NAMES", *NAMES]
