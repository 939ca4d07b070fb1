"""The words in which a critique and a revision are asked for, as turns of the chat in which the response was given."""

from __future__ import annotations

from rlhf_jax.data.rows import Chat, Message, Prompt
from rlhf_jax.feedback.principles import Principle

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


def for_critique(prompt: Prompt, response: str, principle: Principle) -> Chat:
    """Write the chat that a critique goes on with.

    Args:
        prompt: what was asked.
        response: what was answered.
        principle: what the response is to keep.

    Returns:
        The turns, the last of which asks for the critique.

    Example:
        >>> [turn.role for turn in for_critique("Hi.", "Go away!", Principle("kind", "It is kind."))]
        ['user', 'assistant', 'user']
    """
    return (*_turns(prompt), Message("assistant", response), Message("user", requests(principle)[0]))


def for_revision(prompt: Prompt, response: str, principle: Principle, critique: str) -> Chat:
    """Write the chat that a revision goes on with.

    Args:
        prompt: as for ``for_critique``.
        response: as for ``for_critique``.
        principle: as for ``for_critique``.
        critique: what was said of the response; empty where none was asked for.

    Returns:
        The turns, the last of which asks for the revision.
    """
    asked = Message("user", requests(principle)[1])
    if not critique:
        return (*_turns(prompt), Message("assistant", response), asked)
    return (*for_critique(prompt, response, principle), Message("assistant", critique), asked)


def _turns(prompt: Prompt) -> Chat:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt
