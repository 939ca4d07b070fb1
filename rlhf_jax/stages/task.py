"""What stages ask of a data set: its rows for each purpose, judges of the result, and baselines to compare with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.parts import Parts
from rlhf_jax.data.rows import (
    Comparison,
    Demonstration,
    Dialogue,
    LabelledResponse,
    Prompt,
    PromptRow,
    RatedResponse,
)
from rlhf_jax.rewards import TextReward
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages.held_out import HeldOutPairs

ReadParts = Callable[[DataConfig], Parts]
# What the rows of each purpose are.
TYPES: Mapping[str, tuple[type, ...]] = {
    "demonstrations": (Demonstration, Dialogue),
    "prompts": (PromptRow,),
    "opinions": (Comparison, RatedResponse, LabelledResponse),
    "text": (Demonstration, Dialogue),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A data set as stages see it.

    Only the readers of the rows that a stage asks for have to be there.

    Each reader is given the stage's ``DataConfig``, whose ``limit`` it should heed, and returns ``data.parts.Parts``:
    rows to train on, to choose a checkpoint on and to report on, typed as in ``data.rows``.

    Example:
        >>> from rlhf_jax.data import Demonstration
        >>> rows = [Demonstration(f"Count to {n}.", " ".join(map(str, range(1, n + 1))), f"row {n}") for n in range(9)]
        >>> counting = Task(demonstrations=lambda config: Parts(rows[:7], rows[7:8], rows[8:]))
        >>> len(counting.demonstrations(DataConfig(source="counting.py:counting")).train)
        7
    """

    demonstrations: ReadParts | None = None
    """Rows to imitate: ``Demonstration`` or ``Dialogue``."""
    prompts: ReadParts | None = None
    """Rows to answer: ``PromptRow``."""
    opinions: ReadParts | None = None
    """What people said of responses, in one form: ``Comparison``, ``RatedResponse`` or ``LabelledResponse``."""
    text: ReadParts | None = None
    """Rows of plain text for the pretraining loss beside PPO; the demonstrations where there is none."""
    judges: Callable[[], Mapping[str, TextReward]] = dict
    """Judges by name, which measure a policy and train none; ``gold`` is the one that counts. Called once a stage."""
    baselines: Callable[[HeldOutPairs], Mapping[str, Any]] | None = None
    """Accuracies of what a reward model is up against on the same held-out pairs: ``NAME``, ``NAME_ci``,
    ``NAME_by_domain`` and ``NAME_by_domain_ci`` for every one of them, as ``stages.baselines`` makes them."""
    domain: Callable[[Prompt], str] = lambda prompt: ""
    """The part of the data set that a prompt belongs to, for figures by domain; empty where there are none."""
    instructions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The instruction of each domain, for the report."""
    leaves_out_long: bool = False
    """Rows that are too long are left out without a word; otherwise they are bad rows."""

    def asked(self, purpose: str, source: str) -> ReadParts:
        """Return the reader of a purpose.

        Args:
            purpose: ``demonstrations``, ``prompts``, ``opinions`` or ``text``.
            source: names the data set in the error.

        Raises:
            RunError: when the task has no such reader.
        """
        readers = {
            "demonstrations": self.demonstrations,
            "prompts": self.prompts,
            "opinions": self.opinions,
            "text": self.text or self.demonstrations,
        }
        found = readers[purpose]
        if found is None:
            raise RunError(f"data.source {source}: this task has no {purpose}, which the stage reads: give it a reader")

        def read(config: DataConfig) -> Parts:
            parts = found(config)
            if not isinstance(parts, Parts):
                raise RunError(
                    f"data.source {source}: the reader of {purpose} returned {type(parts).__name__}; return "
                    "data.parts.Parts(train, validation, test)"
                )
            for rows in (parts.train, parts.validation, parts.test):
                wrong = next((row for row in rows if not isinstance(row, TYPES[purpose])), None)
                needed = purpose != "text" or rows is parts.train  # nothing is measured on text
                if wrong is not None or (needed and not rows):
                    names = " or ".join(kind.__name__ for kind in TYPES[purpose])
                    found_one = "an empty part" if wrong is None else type(wrong).__name__
                    raise RunError(f"data.source {source}: expected {purpose} as {names}, found {found_one}")
            return parts

        return read


def remembering(task: Task) -> Task:
    """Make a task that reads the rows of each purpose once, however often they are looked at."""

    def once(read: ReadParts | None) -> ReadParts | None:
        return None if read is None else functools.cache(read)

    return dataclasses.replace(
        task,
        demonstrations=once(task.demonstrations),
        prompts=once(task.prompts),
        opinions=once(task.opinions),
        text=once(task.text),
    )
