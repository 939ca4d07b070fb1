"""How an OpenAI-compatible endpoint is asked: how fast, how often again, what it costs and where answers are kept."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.fields import check_above_zero, check_at_least, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """How an endpoint is asked."""

    concurrency: int = 8
    """Questions under way at once."""
    rate: float = 0.0
    """Requests a second at most, those that failed included; 0 for no limit."""
    timeout: float = 60.0
    """Seconds that an answer may take, from the question to its last byte."""
    retries: int = 5
    """How often a question is asked again after a failure that may pass: a time-out, a connection that is refused or
    breaks, status 408, 425, 429 or 5xx, half an answer."""
    backoff: float = 1.0
    """Seconds within which the first new try is made, at random; each failure doubles it, up to `longest_wait`."""
    longest_wait: float = 60.0
    """Seconds that are waited at most before a new try. Where a server asks to be left alone for longer (Retry-After),
    the work ends, and goes on when the same command is given again."""
    give_up: int = 20
    """After so many questions in a row without an answer the work ends, rather than abstain from all that are left."""
    temperature: float | None = 0.0
    """Temperature of the answer; None leaves it to the server, as some models allow no other."""
    answer_tokens: int = 16
    """Tokens that an answer may have. Models that think first need hundreds."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the request calls that limit: OpenAI's own reasoning models take `max_completion_tokens` alone."""
    top_logprobs: int = 20
    """How many likely tokens the server is asked for at each place, of which votes are made soft; 0 asks for none. A
    server that refuses to give them is asked without."""
    price_in: float = 0.0
    """Price of a million tokens of questions."""
    price_out: float = 0.0
    """Price of a million tokens of answers."""
    cache: str = ""
    """The SQLite file that keeps every answer, and every failure, for audit and so that no question is paid for twice;
    by default `judges/answers.sqlite` in the cache folder."""
    key: str = ""
    """The name of the environment variable with the API key, as `OPENAI_API_KEY`; none is sent where this is empty."""

    def __post_init__(self) -> None:
        if isinstance(self.key, str) and self.key and not self.key.isidentifier():
            raise ValueError("key must be the name of an environment variable, not the API key itself")  # never shown
        check_fields(self)
        check_at_least(self, 1, "concurrency", "answer_tokens", "give_up")
        check_at_least(self, 0, "rate", "retries", "top_logprobs", "price_in", "price_out")
        check_above_zero(self, "timeout", "backoff", "longest_wait")
        if self.temperature is not None:
            check_at_least(self, 0, "temperature")
