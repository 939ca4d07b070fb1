"""What is to be revised: the responses of a file, or prompts that a run's policy answers first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data import layouts
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.one_file import read_rows
from rlhf_jax.data.order import evenly
from rlhf_jax.data.rows import Demonstration, Prompt
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.policy import Policy
from rlhf_jax.stages.constitution.config import ReviseConfig
from rlhf_jax.stages.people.prompts import is_file, prompts_to_ask


class Asked(NamedTuple):
    """Prompts, and the responses to them where they are there already."""

    cases: list[tuple[Prompt, int]]  # a prompt, and which of the responses to it
    responses: list[str]  # one to each; none where a policy answers
    templated: bool  # the chat template is applied to the prompts already

    def policy(self, run: str) -> Policy:
        """Load the policy that answers these prompts."""
        found = Policy.load(run)
        return found.templated() if self.templated else found


def find_asked(config: ReviseConfig) -> Asked:
    """Read what a config's source and prompts name.

    Args:
        config: what is revised.

    Raises:
        RunError: when there is no such run or file, or nothing in it.
        DataError: on a bad row.
    """
    source = config.source
    from_file = is_file(source)
    if from_file is None:
        raise RunError(f"{source}: there is no such run folder or file of responses")
    if from_file:
        if config.prompts:
            raise RunError(f"{source} is a file of responses, which has prompts: leave --prompts {config.prompts} out")
        rows = read_rows(source, _response, config.on_bad_row, known=("revision",))
        kept = evenly(rows, config.limit or len(rows))
        found = Asked(_numbered([row.prompt for row in kept]), [row.response for row in kept], templated=False)
    else:
        prompts, templated = prompts_to_ask(source, config.prompts, config.part, config.on_bad_row)
        kept = evenly(prompts, config.limit or len(prompts))
        found = Asked([(prompt, sample) for prompt in kept for sample in range(config.samples)], [], templated)
    if not found.cases:
        raise RunError(f"{config.prompts or source}: there is nothing in it to revise")
    return found


def _numbered(prompts: Sequence[Prompt]) -> list[tuple[Prompt, int]]:
    """Number the rows of each prompt, so that two responses to it are not revised by the same draws."""
    seen: Counter[Prompt] = Counter()
    found = []
    for prompt in prompts:
        found.append((prompt, seen[prompt]))
        seen[prompt] += 1
    return found


def _response(row: Mapping[str, Any], where: str) -> Demonstration:
    found = layouts.demonstration(row, where)
    if not isinstance(found, Demonstration):
        raise DataError(f"{where}: expected a prompt and one response to it, found a chat of several turns")
    return found
