"""Questions under way, many at once: threads ask, ask again what failed, and keep what is answered before it counts.

A question without an answer after all tries comes back as None, an abstention, which the next run asks again. Where no
question would be answered, or none any more, the work ends with an error instead.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from rlhf_jax import processes
from rlhf_jax.judges.endpoint.address import Address
from rlhf_jax.judges.endpoint.cache import Answer, Cache
from rlhf_jax.judges.endpoint.client import Client
from rlhf_jax.judges.endpoint.config import EndpointConfig
from rlhf_jax.judges.endpoint.costs import Counts, cost
from rlhf_jax.judges.endpoint.errors import EndpointError, EndpointUnavailable, Failure
from rlhf_jax.judges.endpoint.replies import Reply
from rlhf_jax.judges.endpoint.waiting import Turns
from rlhf_jax.training.progress import Pace

_OF_ALL = {301, 302, 303, 307, 308, 401, 402, 404, 405}  # what is said of one question holds for every other
_SPEAKS_EVERY = 15.0  # seconds
_LOOKS_EVERY = 1.0


class _Outcome(NamedTuple):
    """What became of one question."""

    reply: Reply | None
    failure: Failure | None
    counts: Counts


class Work:
    """Questions for one endpoint.

    Args:
        address: where it is.
        config: how it is asked.
        client: the connection.
        cache: where answers are kept.
        logprobs: whether log-probabilities may be asked for.
    """

    def __init__(self, address: Address, config: EndpointConfig, client: Client, cache: Cache, *, logprobs: bool):
        self._address, self._config, self._client, self._cache = address, config, client, cache
        self.logprobs = logprobs
        """False from where the server has refused to give any."""
        self.counts = Counts()
        """What has become of questions so far."""
        self._stop = threading.Event()
        self._turns = Turns(config.rate, self._stop)
        self._spoke = time.monotonic()

    def do(self, requests: Mapping[str, Mapping[str, Any]]) -> dict[str, Reply | None]:
        """Ask all questions.

        Args:
            requests: by key, what is sent.

        Returns:
            By key, the reply; None where there is none after all tries.

        Raises:
            EndpointError: none can be answered.
            EndpointUnavailable: none is answered any more.
        """
        replies: dict[str, Reply | None] = {}
        left = iter(requests.items())
        under_way: dict[Future[_Outcome], str] = {}
        pace = Pace(0, time.monotonic())
        in_a_row = 0
        with ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="endpoint") as pool:
            try:
                while len(replies) < len(requests):
                    while len(under_way) < self._config.concurrency and (next_one := next(left, None)):
                        under_way[pool.submit(self._one, *next_one)] = next_one[0]
                    for done in wait(under_way, _LOOKS_EVERY, FIRST_COMPLETED).done:
                        outcome = done.result()
                        replies[under_way.pop(done)] = outcome.reply
                        self.counts += outcome.counts
                        in_a_row = 0 if outcome.failure is None else in_a_row + 1
                        self._see_whether_to_go_on(outcome.failure, in_a_row, len(requests) - len(replies))
                        pace.did(len(replies), time.monotonic())
                    self._speak(len(replies), len(requests), pace)
            except BaseException:
                self._stop.set()  # those under way are waited for: they are paid for, and are kept
                raise
        return replies

    def _one(self, key: str, request: Mapping[str, Any]) -> _Outcome:
        """Ask one question until it is answered or there is no use in asking again."""
        import tenacity

        tries = 0
        drawn = tenacity.wait_random_exponential(multiplier=self._config.backoff, max=self._config.longest_wait)

        def wanted(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(drawn(state), error.wait if isinstance(error, Failure) else 0.0)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Failure) and error.again),
            stop=tenacity.stop_after_attempt(1 + self._config.retries),
            wait=wanted,
            sleep=self._turns.sleep,
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    self._turns.wait()
                    tries += 1
                    reply, answer = self._try(key, request, tries)
        except Failure as failure:
            return _Outcome(None, failure, Counts(tries=tries, failed=1))
        self._cache.keep(key, self._address.base, self._address.model, answer)
        counts = Counts(
            tries=tries,
            soft=bool(reply.places),
            unmetered=reply.tokens_in is None or reply.tokens_out is None,
            tokens_in=reply.tokens_in or 0,
            tokens_out=reply.tokens_out or 0,
            cost=answer.cost,
        )
        return _Outcome(reply, None, counts)

    def _try(self, key: str, request: Mapping[str, Any], tries: int) -> tuple[Reply, Answer]:
        if self._stop.is_set():
            raise Failure("the work has ended", again=False)
        sent = request if self.logprobs else {k: v for k, v in request.items() if "logprobs" not in k}
        begun = time.monotonic()
        try:
            body, reply = self._client.send(sent)
        except Failure as failure:
            self._cache.note(key, self._address.base, self._address.model, failure, time.monotonic() - begun)
            self._see_what_is_wrong(failure)
            if "logprobs" in sent and failure.status in (400, 422) and "logprob" in failure.what.lower():
                self._go_without_logprobs(failure)
                return self._try(key, request, tries)
            raise
        paid = cost(self._config, reply.tokens_in or 0, reply.tokens_out or 0)
        seconds = time.monotonic() - begun
        return reply, Answer(sent, body, reply.tokens_in, reply.tokens_out, paid, seconds, tries)

    def _see_what_is_wrong(self, failure: Failure) -> None:
        """Leave the server alone where it asks for it; end the work where the failure is not this question's alone."""
        where = f"judge {self._address.base}#{self._address.model}"
        if failure.wait > self._config.longest_wait:
            raise EndpointUnavailable(
                f"{where} asks to be left alone for {failure.wait:.0f} s ({failure.what}), which is more than "
                f"--endpoint.longest-wait: give the same command again then; {self._kept}"
            )
        if failure.wait:
            self._turns.leave_alone(failure.wait)
        if failure.status in _OF_ALL:
            hints = {401: "see --endpoint.key", 404: "see whether the address and the model are right"}
            hint = hints.get(failure.status, "see what the server wants")
            raise EndpointError(f"{where}: {failure.what}; {hint}")

    def _see_whether_to_go_on(self, failure: Failure | None, in_a_row: int, left: int) -> None:
        if failure is None:
            return
        where = f"judge {self._address.base}#{self._address.model}"
        answered_none = self.counts.failed == in_a_row
        if failure.absent and answered_none and not left:
            raise EndpointUnavailable(
                f"{where} is not there ({failure.what}): start it, or see whether the address is right"
            )
        if in_a_row >= self._config.give_up and left:
            raise EndpointUnavailable(
                f"{where}: no answer to {in_a_row} questions in a row, and {left} are left ({failure.what}); give the "
                f"same command again when it answers; {self._kept}"
            )

    @property
    def _kept(self) -> str:
        return f"what was answered is in {self._cache.path}"

    def _go_without_logprobs(self, failure: Failure) -> None:
        if self.logprobs:
            name = self._address.model
            print(
                f"warning: judge {name} gives no log-probabilities ({failure.what}): votes are whole", file=sys.stderr
            )
        self.logprobs = False

    def _speak(self, done: int, total: int, pace: Pace) -> None:
        now = time.monotonic()
        if now - self._spoke < _SPEAKS_EVERY or not processes.first():
            return
        self._spoke = now
        counts = self.counts
        failed = f"  {counts.failed} failed" if counts.failed else ""
        paid = f"  cost {counts.cost:.4g}" if counts.cost else ""
        rate = f"{pace.rate:.3g} answers/s  {pace.left(total)} left"
        print(f"judge {self._address.model} {done}/{total}  {rate}{failed}{paid}", file=sys.stderr, flush=True)
