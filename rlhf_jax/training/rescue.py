"""After an error inside a step or an evaluation: whether the state before it can still be saved, and what is said."""

from __future__ import annotations

from typing import Any

import jax

from rlhf_jax import processes

SAVED = "what was done"  # the notes that are added to such errors begin so


def can_save(error: BaseException, state: Any) -> bool:
    """Tell whether a state is still there after an error, and every process knows that it is to be saved.

    An update takes the arrays of the state that it is given: where it failed half-way, nothing is left to save. A save
    is done by all processes together, so an error that only one of them has met must not lead to one.

    Args:
        error: what was raised.
        state: a tree of arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> can_save(KeyError("x"), {"step": jnp.zeros(1)})
        True
    """
    if processes.several() and not processes.known_to_all(error):
        return False
    return not any(x.is_deleted() for x in jax.tree.leaves(state) if isinstance(x, jax.Array))


def note_saved(error: BaseException, step: int) -> None:
    """Add to an error up to which step everything is saved."""
    error.add_note(f"{SAVED} up to step {step} is saved, and the same command continues from there")


def note_lost(error: BaseException, saved: int, why: str) -> None:
    """Add to an error that only an earlier checkpoint is left, and why.

    Args:
        error: what was raised.
        saved: the step of that checkpoint; 0 if there is none.
        why: half a sentence.
    """
    left = f"the same command continues from step {saved}" if saved else "the same command begins again"
    error.add_note(f"{SAVED} after step {saved} is lost, because {why}; {left}")
