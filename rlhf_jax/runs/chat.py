"""A conversation with a policy: it remembers the turns so far and streams its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax

from rlhf_jax import models
from rlhf_jax.data.rows import Message
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.rollout.generate import ROOM
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.sampling import make_engine

# Prompts are padded to multiples of this, so that few programs serve a whole conversation.
_BUCKET = 64


class Conversation:
    """A chat with a policy; ``ask`` streams an answer and remembers it.

    Args:
        policy: from ``Policy.load``; its tokenizer's format decides how turns are written.
        sampling: how to draw; a small ``window`` streams smoothly.
        system: the system's turn, if any.
        seed: the same seed and questions give the same answers.

    Example:
        >>> conversation = Conversation(Policy.load("runs/mine"))  # doctest: +SKIP
        >>> "".join(conversation.ask("What is the capital of France?"))  # doctest: +SKIP
        'The capital of France is Paris.'
    """

    def __init__(self, policy: Policy, sampling: SamplingConfig | None = None, *, system: str = "", seed: int = 0):
        self._policy = policy
        self._sampling = sampling or SamplingConfig(max_new_tokens=256, window=8)
        self._engine = make_engine(models.build(policy.config), policy.tokenizer, self._sampling)
        self._laid = self._engine.lay_out(policy.params)
        self._system = (Message("system", system),) if system else ()
        self._key = jax.random.key(seed)
        self._asked = 0
        self.turns: tuple[Message, ...] = ()

    def reset(self) -> None:
        """Forget what was said."""
        self.turns = ()

    def ask(self, text: str) -> Iterator[str]:
        """Answer a question, in pieces of text as they are sampled.

        The oldest turns are forgotten when the conversation no longer fits into the model's context. If an answer is
        cut short, the part that was said is remembered. A stop string is neither shown nor remembered.

        Raises:
            RunError: when the question alone does not fit.
            DataError: when the chat template refuses the turns.
            TypeError: when the question is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"the question is {text!r:.60}: expected a text")
        turns = (*self.turns, Message("user", text))
        prompt = self._policy.tokenizer.encode_prompt((*self._system, *turns))
        context = self._policy.config.max_length or ROOM
        room = context - self._sampling.max_new_tokens
        while len(prompt) > room and len(turns) > 2:
            turns = turns[2:]
            prompt = self._policy.tokenizer.encode_prompt((*self._system, *turns))
        if len(prompt) > room:
            raise RunError(
                f"the question has {len(prompt)} tokens, and the model's context of {context} leaves "
                f"{max(room, 0)} beside an answer of {self._sampling.max_new_tokens}: shorten it, or lower "
                "--max-new-tokens"
            )
        self._asked += 1
        key = jax.random.fold_in(self._key, self._asked)
        said, ids, stop = "", list[int](), self._engine.config.stop
        try:
            for token in self._engine.stream(self._laid, prompt, key=key, bucket=_BUCKET):
                ids.append(token)
                now = self._policy.tokenizer.decode_response(ids, stop)
                # A character may take several tokens; until the last one it decodes to a replacement character.
                if len(sure := without_beginning(now, stop)) > len(said) and not now.endswith("\ufffd"):
                    new, said = sure[len(said) :], sure
                    yield new
            # What looked like the beginning of a stop string was none.
            rest = self._policy.tokenizer.decode_response(ids, stop).rstrip("\ufffd") if stop else said
            if len(rest) > len(said):
                new, said = rest[len(said) :], rest
                yield new
        finally:
            self.turns = (*turns, Message("assistant", said))


def without_beginning(text: str, stop: Sequence[str]) -> str:
    """Take off the end of a text what may go on to be one of some others.

    Example:
        >>> without_beginning("Yes.\\n#", ["\\n##"]), without_beginning("Yes #1", ["\\n##"])
        ('Yes.', 'Yes #1')
    """
    begun = [size for end in stop for size in range(1, len(end)) if text.endswith(end[:size])]
    return text[: len(text) - max(begun, default=0)]
