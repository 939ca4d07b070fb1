"""The words in which a critique and a revision are asked for, as turns of the chat in which the response was given."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_jax.data.rows import Chat, Message, Prompt
from rlhf_jax.feedback.principles import Principle
from rlhf_jax.stages.constitution.examples import Shown

_CRITIQUE = "This is a principle for responses: {text} Say in one sentence where your last response does not keep it."
_REVISION = (
    "This is a principle for responses: {text} Write your last response again so that it keeps the principle. Answer "
    "with the new response only."
)


def requests(principle: Principle) -> tuple[str, str]:
    """Write the requests of a principle: the file's own words where it has some.

    Args:
        principle: what the response is to keep.

    Returns:
        The request for a critique, and the one for a revision.

    Example:
        >>> critique, revision = requests(Principle("kind", "It is kind.", critique="What is unkind in it?"))
        >>> critique
        'What is unkind in it?'
        >>> revision[:48]
        'This is a principle for responses: It is kind. W'
    """
    return (
        principle.critique or _CRITIQUE.format(text=principle.text),
        principle.revision or _REVISION.format(text=principle.text),
    )


def for_critique(prompt: Prompt, response: str, principle: Principle, examples: Sequence[Shown] = ()) -> Chat:
    """Write the chat that a critique goes on with.

    Args:
        prompt: what was asked.
        response: what was answered.
        principle: what the response is to keep.
        examples: what is shown before, to the same requests.

    Returns:
        The turns, the last of which asks for the critique.

    Example:
        >>> [turn.role for turn in for_critique("Hi.", "Go away!", Principle("kind", "It is kind."))]
        ['user', 'assistant', 'user']
    """
    before = [turn for one in examples for turn in (*_criticised(one, principle), Message("assistant", one.critique))]
    return _after(prompt, before, response, Message("user", requests(principle)[0]))


def for_revision(
    prompt: Prompt, response: str, principle: Principle, critique: str, examples: Sequence[Shown] = ()
) -> Chat:
    """Write the chat that a revision goes on with.

    Args:
        prompt: as for ``for_critique``.
        response: as for ``for_critique``.
        principle: as for ``for_critique``.
        critique: what was said of the response; empty where none was asked for.
        examples: as for ``for_critique``.

    Returns:
        The turns, the last of which asks for the revision.
    """
    why, asked = (Message("user", text) for text in requests(principle))
    before: list[Message] = []
    for one in examples:
        shown = (*_criticised(one, principle), Message("assistant", one.critique)) if critique else _said(one)
        before += [*shown, asked, Message("assistant", one.revision)]
    between = (why, Message("assistant", critique)) if critique else ()
    return _after(prompt, before, response, *between, asked)


def _said(one: Shown) -> Chat:
    return Message("user", one.prompt), Message("assistant", one.response)


def _criticised(one: Shown, principle: Principle) -> Chat:
    return (*_said(one), Message("user", requests(principle)[0]))


def _after(prompt: Prompt, before: Sequence[Message], response: str, *then: Message) -> Chat:
    """Put examples before what was asked; a turn of the system stays the first."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    system = turns[:1] if turns and turns[0].role == "system" else ()
    return (*system, *before, *turns[len(system) :], Message("assistant", response), *then)
