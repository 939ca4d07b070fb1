"""What the page shows, in parts: the turns of a prompt, and the paragraphs of a guideline."""

from __future__ import annotations

from typing import NamedTuple

from rlhf_jax.data import DataError
from rlhf_jax.data.layouts.turns import is_spoken, spoken
from rlhf_jax.data.rows import Prompt


class Block(NamedTuple):
    """A part of a guideline."""

    kind: str  # heading, text or list
    lines: tuple[str, ...]


def turns(prompt: Prompt) -> list[dict[str, str]]:
    r"""Cut a prompt into its turns.

    Args:
        prompt: the turns, a chat that ``data.rows.prompt_text`` has written as one text, or any other text.

    Returns:
        A ``role`` (system, user or assistant; "" for a text that is no chat) and a ``text`` each; the opening of the
        answer that is to come is left out.

    Example:
        >>> turns("Be brief.\n\nHuman: Hi.\n\nAssistant:")
        [{'role': 'system', 'text': 'Be brief.'}, {'role': 'user', 'text': 'Hi.'}]
        >>> turns("The cat")
        [{'role': '', 'text': 'The cat'}]
    """
    if not isinstance(prompt, str):
        return [{"role": turn.role, "text": turn.content} for turn in prompt]
    opening, human, rest = prompt.partition("\n\nHuman:")
    if not human:
        opening, human, rest = "", "", prompt
    body = f"{human}{rest}"
    asked = body.rstrip().removesuffix("\n\nAssistant:")
    if not (is_spoken(body) or (asked != body.rstrip() and asked.lstrip().startswith("Human:"))):
        return [{"role": "", "text": prompt}]
    try:
        read = [{"role": turn.role, "text": turn.content} for turn in spoken(asked, "prompt", "the page")]
    except DataError:  # a turn without a text, say; shown as it stands
        return [{"role": "", "text": prompt}]
    return [{"role": "system", "text": opening.strip()}, *read] if opening.strip() else read


def guideline(text: str) -> list[Block]:
    r"""Cut a guideline into headings (``#``), lists (``-`` or ``*``) and paragraphs.

    Nothing else of Markdown is read: what stands there is shown as it is.

    Args:
        text: the guideline.

    Returns:
        Its blocks, in order.

    Example:
        >>> for block in guideline("# Better is\n- true\n- short\n\nDo not look\nat style."):
        ...     print(*block)
        heading ('Better is',)
        list ('true', 'short')
        text ('Do not look', 'at style.')
    """
    blocks: list[Block] = []
    fresh = True
    for line in text.splitlines():
        bare = line.strip()
        if not bare:
            fresh = True
            continue
        kind, said = _kind(bare)
        if not fresh and kind != "heading" and blocks[-1].kind == kind:
            blocks[-1] = Block(kind, (*blocks[-1].lines, said))
        elif not fresh and kind == "text" and blocks[-1].kind == "list":
            *before, last = blocks[-1].lines
            blocks[-1] = Block("list", (*before, f"{last} {said}"))  # an item that goes on over lines
        else:
            blocks.append(Block(kind, (said,)))
        fresh = False
    return blocks


def _kind(line: str) -> tuple[str, str]:
    if line.startswith("#"):
        return "heading", line.lstrip("#").strip()
    if line.startswith(("- ", "* ")):
        return "list", line[2:].strip()
    return "text", line
