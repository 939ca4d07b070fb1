"""The chain of a response: for every round a principle, a critique, a revision, and what the revision did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data.rows import Chat, Prompt, prompt_field, prompt_text
from rlhf_jax.feedback.principles import Principle, Principles
from rlhf_jax.stages.constitution.asking import for_critique, for_revision, requests
from rlhf_jax.stages.constitution.echoes import unwrapped, what_it_did
from rlhf_jax.stages.constitution.examples import Shown, of_principle


class Case(NamedTuple):
    """A response that is to be revised."""

    prompt: Prompt
    sample: int  # which of the responses to its prompt
    response: str


class Said(NamedTuple):
    """What a model said."""

    text: str
    finished: bool  # it ended, and was not cut off


Say = Callable[[Sequence[Chat]], Sequence[Said]]


def revised(
    cases: Sequence[Case],
    principles: Principles,
    say: Say,
    *,
    rounds: int,
    critique: bool,
    seed: int,
    examples: Sequence[Shown] = (),
) -> list[dict[str, Any]]:
    """Criticise and revise responses, round after round.

    A revision that is empty, cut off, or repeats the response, the request or the critique is not taken: the response
    stays what it was, and the next round asks again, by the principle that is drawn then.

    Args:
        cases: the responses.
        principles: what they are to keep.
        say: who criticises and revises.
        rounds: how often.
        critique: whether a critique is asked for before a revision.
        seed: which principle is drawn comes from it.
        examples: what is shown before every request.

    Returns:
        A row for each case: ``prompt``, ``response`` as it is in the end, ``first`` as it was, ``sample``, and
        ``chain``, for every round ``principle``, ``critique``, ``revision`` and ``did``, as ``what_it_did`` has it.

    Example:
        >>> from rlhf_jax.feedback.principles import parse_principles
        >>> kinder = lambda chats: [Said("Please stay.", True) for _ in chats]
        >>> kind = parse_principles("kind: It is kind.")
        >>> case = Case("Hi.", 0, "Go away!")
        >>> (row,) = revised([case], kind, kinder, rounds=2, critique=False, seed=0)
        >>> row["response"], [step["did"] for step in row["chain"]]
        ('Please stay.', ['revised', 'echo'])
    """
    now = [case.response for case in cases]
    chains: list[list[dict[str, Any]]] = [[] for _ in cases]
    for number in range(rounds):
        drawn = [drawn_principle(principles, seed, case, number) for case in cases]
        asked = [
            (case.prompt, text, one, of_principle(examples, one))
            for case, text, one in zip(cases, now, drawn, strict=True)
        ]
        critiques = [""] * len(cases)
        if critique:
            said = say([for_critique(*each) for each in asked])
            critiques = [one.text.strip() for one in said]
        revisions = say(
            [
                for_revision(prompt, text, one, why, before)
                for (prompt, text, one, before), why in zip(asked, critiques, strict=True)
            ]
        )
        for i, (one, why, revision) in enumerate(zip(drawn, critiques, revisions, strict=True)):
            text = unwrapped(revision.text)
            words = " ".join([one.text, *requests(one)])
            did = what_it_did(text, now[i], asked=words, critique=why, finished=revision.finished)
            chains[i].append({"principle": one.name, "critique": why, "revision": text, "did": did})
            now[i] = text if did == "revised" else now[i]
    return [
        {
            "prompt": prompt_field(case.prompt),
            "response": text,
            "first": case.response,
            "sample": case.sample,
            "chain": chain,
        }
        for case, text, chain in zip(cases, now, chains, strict=True)
    ]


def drawn_principle(principles: Principles, seed: int, case: Case, each: int) -> Principle:
    """Draw the principle of one round of a case.

    Args:
        principles: the file.
        seed: the config's.
        case: the response; which one it is counts, and not what it says.
        each: the round, from 0.
    """
    return principles.draw(seed, f"{prompt_text(case.prompt)}\n{case.sample}\n{each}")
