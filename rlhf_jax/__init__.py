"""rlhf_jax: preference learning for language models in JAX, every objective a pure function of arrays.

Subpackages load on first use, so that ``import rlhf_jax`` is quick and pulls in nothing optional.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "checkpoint",
    "control",
    "data",
    "evaluation",
    "feedback",
    "judges",
    "losses",
    "models",
    "objectives",
    "parallel",
    "report",
    "rewards",
    "rollout",
    "runs",
    "stages",
    "testing",
    "training",
    "types",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"rlhf_jax.{name}")
    raise AttributeError(f"module 'rlhf_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
