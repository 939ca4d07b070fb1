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
    """A chat as text, and where the assistant speaks in it just as a sample of its turn would."""

    text: str  # special tokens that a message spells are broken by ``BREAK``
    turns: tuple[tuple[int, int], ...]  # [start, end) of an assistant's turn, the token that ends it included
    spoken: tuple[int, ...] = ()  # which message each of these turns is


class _Shape(NamedTuple):
    before: str  # what stands between the user's text and the assistant's in a chat
    prompt: str  # what stands after the user's text where the assistant is to answer: the model is sampled after it
    joint: str  # what an answer begins with before its own text: the rest of the former, or the end of a thought
    end: str  # what ends a turn: a special token, and space before it where the template writes some
    rest: str  # what the template writes after that
    thought: str  # the tag of a thought that the prompt opens and an answered chat does not show; else empty


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
            DataError: if the template fails, or a turn of the assistant cannot be found in what it writes.
        """
        return self._rendered(messages, add_generation_prompt=True)

    def dialogue(self, messages: Sequence[Message]) -> Rendered:
        """Render a whole chat.

        Args:
            messages: the turns.

        Returns:
            The text, and where the assistant's turns stand in it, each with the token that ends it. A turn counts
            where the text up to it is what the model is sampled from, and the turn is what ``answer`` writes. Some
            templates show an earlier turn in another way, without its reasoning; such a turn is no part of ``turns``.

        Raises:
            DataError: if the template fails, or a turn of the assistant cannot be found in what it writes.

        Example:
            >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
            >>> source += "{% if add_generation_prompt %}<assistant>{% endif %}"
            >>> template = ChatTemplate(source, controls=("</s>",))
            >>> text, turns, _ = template.dialogue([Message("user", "Hi."), Message("assistant", "Hello!")])
            >>> [text[start:end] for start, end in turns]
            ['Hello!</s>']
        """
        return self._rendered(messages, add_generation_prompt=False)

    def answer(self, text: str) -> str:
        """Write an answer as it follows the generation prompt, with the token that ends it.

        Whatever the template writes between the two belongs to the answer, such as an empty thought: the model has to
        write it itself.

        Args:
            text: what the assistant says.

        Returns:
            The text, in which special tokens that ``text`` spells are broken by ``BREAK``.

        Raises:
            DataError: if the template fails, or what it makes of the answer cannot be found in what it writes.

        Example:
            >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
            >>> source += "{% if add_generation_prompt %}<assistant>{% endif %}"
            >>> ChatTemplate(source, controls=("</s>",)).answer("Hello! ")
            'Hello!</s>'
        """
        shape, said = self._shape, self.break_up(text)
        chat = [Message("user", _STAND_INS[0]), Message("assistant", said)]
        tail = self.render(chat).rpartition(_STAND_INS[0])[2]
        ending = shape.end + shape.rest
        if not tail.endswith(ending):
            _not_exact()
        if tail.startswith(shape.prompt):
            return tail[len(shape.prompt) : len(tail) - len(shape.rest)]
        if not tail.startswith(shape.before):
            _not_exact()
        shown = tail[len(shape.before) : len(tail) - len(ending)]
        closing = f"</{shape.thought}>"
        if not shape.thought or closing not in text:
            return shape.joint + shown + shape.end
        if closing not in shown:  # the template shows no thought of an answered turn
            thought, _, answer = text.rpartition(closing)
            space = answer[: len(answer) - len(answer.lstrip())]
            if not said.rstrip().endswith(shown.strip()):
                _not_exact()
            shown = self.break_up(thought) + closing + space + shown.lstrip()
        return re.sub(rf"\A\s*<{BREAK}?{re.escape(shape.thought)}>\n?", "", shown) + shape.end

    def turns_in(self, text: str) -> list[tuple[int, int]]:
        """Find the assistant's turns in a text that the template wrote, each with the token that ends it.

        Args:
            text: a whole chat, special tokens spelled out.

        Returns:
            Where each begins and ends.

        Example:
            >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
            >>> source += "{% if add_generation_prompt %}<assistant>{% endif %}"
            >>> ChatTemplate(source, controls=("</s>",)).turns_in("<user>Hi.</s><assistant>Hello!</s>")
            [(24, 34)]
        """
        shape = self._shape
        opened = shape.before if shape.thought else shape.prompt
        found = re.finditer(rf"{re.escape(opened)}(.*?{re.escape(shape.end)})", text, re.DOTALL)
        return [match.span(1) for match in found]

    @property
    def end(self) -> str:
        """What the template writes at the end of an assistant's turn, such as ``<|im_end|>``."""
        return self._shape.end

    @property
    def joint(self) -> str:
        """What an answer begins with before its own text: space, or an empty thought; mostly nothing."""
        return self._shape.joint

    @property
    def opening(self) -> str:
        """What the template writes after the user's text for the assistant to answer."""
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
        """What the template does with an assistant's turn, seen on a chat of two turns, and whether it can be used."""
        asked, said = _STAND_INS
        user, assistant = Message("user", asked), Message("assistant", said)
        begun, shows_user, opened = self.render([user], add_generation_prompt=True).rpartition(asked)
        start, _, tail = self.render([user, assistant]).rpartition(asked)
        before, found, after = tail.partition(said)
        if not found:
            raise DataError("chat template: it does not show what the assistant says; tokenise with format='plain'")
        if not shows_user or start != begun:
            raise DataError(
                "chat template: it writes something else before the user's turn where that is to be answered than "
                "where it was answered, so what is trained would not be what is sampled; correct chat_template.jinja, "
                "or tokenise with format='plain'"
            )
        end = re.match(rf"\s*(?:{any_of(self.controls).pattern})", after)
        if end is None:
            raise DataError(
                "chat template: after the assistant's turn it writes no special token for the model to stop at, but "
                f"{after!r}; tokenise with format='plain'"
            )
        joint, thought = _between(before, opened)
        return _Shape(before, opened, joint, end[0], after[len(end[0]) :], thought)

    @functools.cached_property
    def _shows_system(self) -> bool:
        """Whether a turn of the system makes a difference; some templates drop it without a word."""
        user = Message("user", _STAND_INS[0])
        one, other = (self.render([Message("system", text), user]) for text in ("\ufdd5", "\ufdd5\ufdd6"))
        return one != other

    def _rendered(self, messages: Sequence[Message], add_generation_prompt: bool) -> Rendered:
        chat = [Message(message.role, self.break_up(message.content)) for message in messages]
        text = self.render(chat, add_generation_prompt)
        if any(message.role == "system" for message in messages) and not self._shows_system:
            raise DataError(
                "chat template: it leaves out what the system says, without which the chat asks something else; move "
                "it into the user's turn, correct chat_template.jinja, or tokenise with format='plain'"
            )
        turns: list[tuple[int, int]] = []
        spoken: list[int] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opened, said = self._opened(chat, index), self.answer(message.content)
            if text.startswith(opened + said):
                turns.append((len(opened), len(opened) + len(said)))
                spoken.append(index)
        return Rendered(text, tuple(turns), tuple(spoken))

    def _opened(self, chat: Sequence[Message], index: int) -> str:
        """Write what the assistant's turn ``index`` is sampled from."""
        if any(message.role == "user" for message in chat[:index]):
            return self.render(chat[:index], add_generation_prompt=True)
        # A chat that the assistant opens answers nothing, so there may be no prompt: take what stands before the turn.
        shown = self.render([*chat[:index], Message("assistant", _STAND_INS[0])])
        return shown.partition(_STAND_INS[0])[0].removesuffix(self.joint)


def _between(before: str, opened: str) -> tuple[str, str]:
    """Compare what stands before an answer that was said with the prompt for one: what the answer has to begin with.

    Returns:
        What an answer begins with, and the tag of the thought that the prompt has opened.
    """
    if before.startswith(opened):
        return before[len(opened) :], ""
    more = opened[len(before) :] if opened.startswith(before) else None
    tag = re.fullmatch(r"\s*<([^<>/\s]+)>\s*", more or "")
    if tag is not None:
        return f"\n</{tag[1]}>\n\n", tag[1]
    if more is not None and more.isspace():
        return "", ""
    raise DataError(
        f"chat template: it opens an answer with {opened!r} and shows one after {before!r}, so what is trained would "
        "not follow what is sampled from; correct chat_template.jinja, or tokenise with format='plain'"
    )


def _not_exact() -> NoReturn:
    raise DataError(
        "chat template: what the assistant says cannot be found exactly in what it renders, so its targets are "
        "unknown; change that text, correct chat_template.jinja, or tokenise with format='plain'"
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
