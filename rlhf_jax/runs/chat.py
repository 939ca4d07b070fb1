"""A conversation with a policy: it remembers the turns so far and streams its answers."""

from __future__ import annotations

from collections.abc import Iterator

import jax

from rlhf_jax import models, rollout
from rlhf_jax.data.rows import Message
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.policy import Policy

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
        tokenizer = policy.tokenizer
        self._engine = rollout.Engine(
            models.build(policy.config), self._sampling, pad_id=tokenizer.pad_id, eos_id=tokenizer.eos_id
        )
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
        cut short, the part that was said is remembered.

        Raises:
            RunError: when the question alone does not fit.
            DataError: when the chat template refuses the turns.
        """
        turns = (*self.turns, Message("user", text))
        prompt = self._policy.tokenizer.encode_prompt((*self._system, *turns))
        room = self._policy.config.max_length - self._sampling.max_new_tokens
        while self._policy.config.max_length and len(prompt) > room and len(turns) > 2:
            turns = turns[2:]
            prompt = self._policy.tokenizer.encode_prompt((*self._system, *turns))
        if self._policy.config.max_length and len(prompt) > room:
            raise RunError(
                f"the question has {len(prompt)} tokens, and the model's context of {self._policy.config.max_length} "
                f"leaves {max(room, 0)} beside an answer of {self._sampling.max_new_tokens}: shorten it, or lower "
                "--max-new-tokens"
            )
        self._asked += 1
        key = jax.random.fold_in(self._key, self._asked)
        said, ids = "", list[int]()
        try:
            for token in self._engine.stream(self._policy.params, prompt, key=key, bucket=_BUCKET):
                ids.append(token)
                now = self._policy.tokenizer.decode_response(ids)
                # A character may take several tokens; until the last one it decodes to a replacement character.
                if len(now) > len(said) and not now.endswith("\ufffd"):
                    new, said = now[len(said) :], now
                    yield new
        finally:
            self.turns = (*turns, Message("assistant", said))
