"""A model behind an address that is asked many questions: each once, ever, and what was answered before is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.data.rows import Prompt, prompt_field
from rlhf_jax.judges.endpoint.address import Address, read_key
from rlhf_jax.judges.endpoint.cache import key_of, opened
from rlhf_jax.judges.endpoint.client import Client
from rlhf_jax.judges.endpoint.config import EndpointConfig
from rlhf_jax.judges.endpoint.costs import Counts
from rlhf_jax.judges.endpoint.reading import read_choice, read_order
from rlhf_jax.judges.endpoint.replies import Reply, read_reply
from rlhf_jax.judges.endpoint.work import Work
from rlhf_jax.runs.fetch import cache_folder


class Endpoint:
    """A model behind an address, which answers questions.

    Args:
        address: where it is, and which model.
        config: how it is asked.

    Raises:
        EndpointError: the key is not there.
    """

    # A run goes on with the same judge at another pace, price or key: none of them is part of what a copy is made of,
    # which tells judges apart.
    def __reduce__(self) -> tuple[Any, ...]:
        asks = self.config
        said = EndpointConfig(
            temperature=asks.temperature,
            answer_tokens=asks.answer_tokens,
            token_limit=asks.token_limit,
            top_logprobs=asks.top_logprobs,
        )
        return Endpoint, (self.address, said)

    def __init__(self, address: Address, config: EndpointConfig):
        self.address, self.config = address, config
        self.counts = Counts()
        """What has become of all questions so far."""
        read_key(config.key)  # a mistake in it shows before anything is asked
        self._refuses_logprobs = False

    @property
    def cache(self) -> Path:
        """The file with the answers."""
        return Path(self.config.cache) if self.config.cache else cache_folder() / "judges" / "answers.sqlite"

    @property
    def cost(self) -> float:
        """What all answers so far have cost, by the prices in the config."""
        return self.counts.cost

    def choose(self, questions: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Answer each question with one of the same few words, as ``judges.asking.Asked`` has it.

        Args:
            questions: n chats, up to the turn that answers; or texts, which the answer continues.
            answers: A words.

        Returns:
            float32 [n, A]: the share of each answer; NaN in a row where there is none.

        Raises:
            EndpointError: as ``ask``.
        """
        return self._read(questions, (len(answers),), lambda reply: read_choice(reply, answers))

    def order(self, questions: Sequence[Prompt], count: int) -> np.ndarray:
        """Put the responses of each question in order, as ``judges.asking.Asked`` has it.

        Args:
            questions: n chats or texts, in which responses go by the first letters.
            count: how many responses each shows, K.

        Returns:
            float32 [n, K, K]: 1 where the response at one place is put before that at another; NaN where there is no
            answer.

        Raises:
            EndpointError: as ``ask``.
        """
        return self._read(questions, (count, count), lambda reply: read_order(reply, count))

    def _read(
        self, questions: Sequence[Prompt], shape: tuple[int, ...], read: Callable[[Reply], np.ndarray]
    ) -> np.ndarray:
        """Ask, and read the replies; where there is none, or nothing is said, all is NaN."""
        said = np.full((len(questions), *shape), np.nan, np.float32)
        unreadable: set[Prompt] = set()
        for row, reply in enumerate(self.ask(questions)):
            if reply is not None:
                said[row] = read(reply)
                if np.isnan(said[row]).all():
                    unreadable.add(questions[row])
        self.counts += Counts(unreadable=len(unreadable))
        return said

    def request(self, question: Prompt) -> dict[str, Any]:
        """Write what is sent for a question.

        Args:
            question: a chat, up to the turn that answers, or a text, which the answer continues.

        Returns:
            The body of the request.
        """
        config = self.config
        chat = not isinstance(question, str)
        body: dict[str, Any] = {"model": self.address.model, "messages" if chat else "prompt": prompt_field(question)}
        if config.temperature is not None:
            body["temperature"] = config.temperature
        body[config.token_limit if chat else "max_tokens"] = config.answer_tokens
        if config.top_logprobs:
            body |= (
                {"logprobs": True, "top_logprobs": config.top_logprobs} if chat else {"logprobs": config.top_logprobs}
            )
        return body

    def ask(self, questions: Sequence[Prompt]) -> list[Reply | None]:
        """Ask questions, those that have been answered before aside.

        Args:
            questions: each a chat, or a text that goes on; the same one twice is asked once.

        Returns:
            A reply to each; None where there is none after all tries.

        Raises:
            EndpointError: no question can be answered: no such model, a key that is refused.
            EndpointUnavailable: the server does not answer, or asks to be left alone for long.
        """
        requests = [self.request(question) for question in questions]
        keys = [key_of(self.address.path(request), request) for request in requests]
        wanted = dict(zip(keys, requests, strict=True))
        with opened(self.cache) as cache:
            replies: dict[str, Reply | None] = {
                key: read_reply(body, chat="messages" in wanted[key]) for key, body in cache.find([*wanted]).items()
            }
            self.counts += Counts(questions=len(wanted), cached=len(replies))
            left = {key: request for key, request in wanted.items() if key not in replies}
            if left:
                with Client(
                    self.address, read_key(self.config.key), self.config.timeout, self.config.concurrency
                ) as client:
                    work = Work(self.address, self.config, client, cache, logprobs=not self._refuses_logprobs)
                    try:
                        replies |= work.do(left)
                    finally:
                        self.counts += work.counts
                        self._refuses_logprobs = not work.logprobs
        return [replies[key] for key in keys]
