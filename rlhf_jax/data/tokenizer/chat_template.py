"""Chat templates: the program in Jinja that a pretrained model's tokenizer carries and that writes a chat as one text.

A template is foreign code, so it runs in Jinja's sandbox and in a process of its own (``template_process``). Here a
chat is rendered, and the exact place of every turn of the assistant is found in it; ``chat`` makes tokens of the text.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.rows import Message, roles
from rlhf_jax.data.tokenizer.template_process import PROCESS, TemplateFailed

# Code points that Unicode reserves as no characters: no text needs them, no template treats them as space.
BREAK = "\ufdd0"
_STAND_INS = ("\ufdd1\ufdd2\ufdd1", "\ufdd3\ufdd4\ufdd3")
_RESERVED = re.compile("[\ufdd0-\ufdef]")


class Rendered(NamedTuple):
    """A chat as text, and where the assistant speaks in it."""

    text: str  # special tokens that a message spells are broken by ``BREAK``
    turns: tuple[tuple[int, int], ...]  # [start, end) of every assistant's turn, the token that ends it included


class _Shape(NamedTuple):
    joint: str  # space between the generation prompt and the text of a turn
    end: str  # what ends a turn: a special token, and space before it where the template writes some
    prompt: str  # what stands between the user's text and the assistant's


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template with what it needs to render."""

    source: str
    """The template's text, in Jinja."""
    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Special tokens by the names that templates use, such as bos_token and eos_token."""
    controls: tuple[str, ...] = ()
    """Texts of all special tokens: what ends a turn is among them, and what a message spells never becomes one."""
    date: str = "1970-01-01"
    """What a template that asks for the date is told, so that a run that is resumed another day has the same tokens."""

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """Write a chat as the text that the model is trained on.

        Args:
            messages: the turns.
            add_generation_prompt: whether the assistant's next turn is opened at the end.

        Returns:
            The text, special tokens spelled out. What a message says is not distinguished from what the template says.

        Raises:
            DataError: if the template refuses the chat, fails, or reaches for what the sandbox forbids.

        Example:
            >>> template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}")
            >>> template.render([Message("user", "Hi."), Message("assistant", "Hello!")])
            '<user>Hi.</s><assistant>Hello!</s>'
        """
        try:
            return PROCESS.render(
                self.source,
                self.date,
                {
                    **self.tokens,
                    "messages": [message._asdict() for message in messages],
                    "tools": None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                },
            )
        except TemplateFailed as error:
            raise DataError(
                f"chat template: it does not render a chat of {roles(messages)} ({error}); "
                "give it the turns that it expects"
            ) from error

    def prompt(self, messages: Sequence[Message]) -> Rendered:
        """Render the turns so far, and open the assistant's next one.

        Args:
            messages: the turns, the last one not the assistant's.

        Returns:
            The text, and the places of the assistant's earlier turns.

        Raises:
            DataError: if the template fails or does not show what an assistant said as it was said.
        """
        return self._turns(messages, add_generation_prompt=True)

    def dialogue(self, messages: Sequence[Message]) -> Rendered:
        """Render a whole chat.

        Args:
            messages: the turns.

        Returns:
            The text, and where the assistant's turns stand in it, each with the token that ends it.

        Raises:
            DataError: if the template fails or does not show what an assistant said as it was said.

        Example:
            >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
            >>> template = ChatTemplate(source, controls=("</s>",))
            >>> text, turns = template.dialogue([Message("user", "Hi."), Message("assistant", "Hello!")])
            >>> [text[start:end] for start, end in turns]
            ['Hello!</s>']
        """
        return self._turns(messages, add_generation_prompt=False)

    @property
    def end(self) -> str:
        """What the template writes at the end of an assistant's turn, such as ``<|im_end|>``."""
        return self._shape.end

    @property
    def joint(self) -> str:
        """The space that the template writes between the generation prompt and the assistant's text; mostly none."""
        return self._shape.joint

    @property
    def opening(self) -> str:
        """What the template writes between the user's text and the assistant's, the ``joint`` left out."""
        return self._shape.prompt

    def break_up(self, text: str) -> str:
        """Break what spells a special token with ``BREAK`` after its first character, or before its only one.

        Args:
            text: what somebody wrote.

        Returns:
            The text without any special token, otherwise unchanged; ``BREAK`` removed, it is as it was.

        Example:
            >>> ChatTemplate("", controls=("</s>",)).break_up("a</s>b") == "a<" + BREAK + "/s>b"
            True
        """
        text = _RESERVED.sub("\ufffd", text)
        while self._controls.search(text):  # again, since special tokens that overlap are found one at a time
            text = self._controls.sub(lambda found: _broken(found[0]), text)
        return text

    @functools.cached_property
    def _controls(self) -> re.Pattern[str]:
        return any_of(self.controls)

    @functools.cached_property
    def _shape(self) -> _Shape:
        """What the template does with an assistant's turn, seen on a chat of two turns."""
        asked, said = _STAND_INS
        user, assistant = Message("user", asked), Message("assistant", said)
        opened = self.render([user], add_generation_prompt=True).rpartition(asked)[2]
        before, found, after = self.render([user, assistant]).rpartition(asked)[2].partition(said)
        if not found:
            raise DataError("chat template: it does not show what the assistant says; tokenise with format='plain'")
        joint = before.removeprefix(opened) if before.startswith(opened) else ""
        joint = joint if joint.isspace() else ""
        end = re.match(rf"\s*(?:{any_of(self.controls).pattern})", after)
        if end is None:
            raise DataError(
                "chat template: after the assistant's turn it writes no special token for the model to stop at, but "
                f"{after!r}; tokenise with format='plain'"
            )
        return _Shape(joint, end[0], opened)

    def _turns(self, messages: Sequence[Message], add_generation_prompt: bool) -> Rendered:
        chat = [Message(message.role, self.break_up(message.content)) for message in messages]
        text = self.render(chat, add_generation_prompt)
        turns: list[tuple[int, int]] = []
        for index, message in enumerate(chat):
            if message.role == "assistant":
                turns.append(self._turn(chat, index, text, add_generation_prompt))
                if len(turns) > 1 and turns[-1][0] < turns[-2][1]:
                    _not_exact(index)
        return Rendered(text, tuple(turns))

    def _turn(self, chat: list[Message], index: int, text: str, add_generation_prompt: bool) -> tuple[int, int]:
        """Find where turn ``index`` stands: with another text in its place, what is around it stays the same."""
        other = [*chat[:index], Message("assistant", _STAND_INS[0]), *chat[index + 1 :]]
        before, found, after = self.render(other, add_generation_prompt).partition(_STAND_INS[0])
        if not found or not text.endswith(after):
            _not_exact(index)
        end = len(text) - len(after)
        ended = end + (len(self.end) if after.startswith(self.end) else 0)
        # A template may take space off both ends of what was said, or its beginning (the reasoning of an earlier turn).
        shown = text[len(before) : end]
        if text.startswith(before) and len(before) <= end and chat[index].content.rstrip().endswith(shown.rstrip()):
            return len(before) - (len(self.joint) if before.endswith(self.joint) else 0), ended
        # Or it sets it anew (the reasoning of the last turn): then all that comes after the generation prompt counts.
        opened = self.render(chat[:index], add_generation_prompt=True)
        if not text.startswith(opened) or len(opened) > end:
            _not_exact(index)
        return len(opened), ended


def _not_exact(index: int) -> NoReturn:
    raise DataError(
        f"chat template: the assistant's turn, message {index + 1}, cannot be found exactly in what it renders, so its "
        "targets are unknown; train on that turn as a prompt and a response"
    )


def _broken(text: str) -> str:
    return text[0] + BREAK + text[1:] if len(text) > 1 else BREAK + text


def any_of(texts: Sequence[str]) -> re.Pattern[str]:
    r"""Compile a pattern for any of some texts that ``BREAK`` does not break: the longest one that fits.

    Without texts the pattern finds nothing.

    Example:
        >>> any_of(["<s>", "<s>\n"]).split("a<s>\nb<s>c")
        ['a', 'b', 'c']
    """
    longest_first = sorted(filter(None, texts), key=lambda text: (-len(text), text))
    # Only a text of one character can be whole after a BREAK; to look for one before each of them all is slow.
    patterns = (re.escape(text) if len(text) > 1 else f"(?<!{BREAK}){re.escape(text)}" for text in longest_first)
    return re.compile("|".join(patterns) or r"(?!)")  # (?!) is found nowhere
