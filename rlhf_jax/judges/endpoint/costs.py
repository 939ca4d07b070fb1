"""What answers cost, and how many there were."""

from __future__ import annotations

import dataclasses

from rlhf_jax.judges.endpoint.config import EndpointConfig

_MILLION = 1_000_000


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of questions."""

    questions: int = 0
    """Those that were asked for, each once however often it came."""
    cached: int = 0
    """Those that had been answered before."""
    tries: int = 0
    """Requests that were sent."""
    failed: int = 0
    """Questions without an answer after all tries: abstentions, which the next run asks again."""
    unreadable: int = 0
    """Answers that say nothing, as `B or A`: abstentions."""
    soft: int = 0
    """Answers with log-probabilities."""
    unmetered: int = 0
    """Answers that were paid for, of which the server does not say how many tokens they took."""
    tokens_in: int = 0
    tokens_out: int = 0
    """Tokens of the questions and of the answers that were paid for now, not of those that had been."""
    cost: float = 0.0
    """What they cost, by the prices that were given."""

    def __add__(self, other: Counts) -> Counts:
        """Add what became of others."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Counts(*(a + b for a, b in zip(mine, theirs, strict=True)))

    @property
    def abstained(self) -> int:
        """Questions that give no vote."""
        return self.failed + self.unreadable

    def sentence(self, model: str) -> str:
        """Say all of it in a line.

        Args:
            model: who was asked.

        Example:
            >>> Counts(questions=6, cached=2, tries=5, failed=1, tokens_in=900, tokens_out=3).sentence("m")
            'm: 6 questions, 2 of them answered before, 5 requests, 1 failed, 900 + 3 tokens'
        """
        parts = [f"{self.questions:,} question{'' if self.questions == 1 else 's'}"]
        for count, said in (
            (self.cached, "of them answered before"),
            (self.tries, "requests"),
            (self.failed, "failed"),
            (self.unreadable, "unreadable"),
            (self.unmetered, "with tokens unknown"),
        ):
            if count:
                parts.append(f"{count:,} {said}")
        if self.tokens_in or self.tokens_out:
            parts.append(f"{self.tokens_in:,} + {self.tokens_out:,} tokens")
        if self.cost:
            parts.append(f"cost {self.cost:.4g}")
        return f"{model}: {', '.join(parts)}"


def cost(config: EndpointConfig, tokens_in: int, tokens_out: int) -> float:
    """Compute what an answer costs.

    ``cost = (price_in n_in + price_out n_out) / 10^6``

    Args:
        config: the prices of a million tokens.
        tokens_in: tokens of the question.
        tokens_out: tokens of the answer.

    Example:
        >>> cost(EndpointConfig(price_in=0.5, price_out=1.5), 1_000, 2)
        0.000503
    """
    return (config.price_in * tokens_in + config.price_out * tokens_out) / _MILLION
