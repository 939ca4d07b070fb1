"""One try to get an answer over HTTP: what is sent, and which of everything that can come back is one.

A try ends in a body with a completion, or in a ``Failure`` that says whether another may succeed.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping
from typing import Any

from rlhf_jax.judges.endpoint.address import Address
from rlhf_jax.judges.endpoint.errors import EndpointError, Failure
from rlhf_jax.judges.endpoint.replies import Reply, read_reply
from rlhf_jax.judges.endpoint.waiting import asked_to_wait

_PASSES = {408, 425, 429, *range(500, 600)} - {501, 505}  # these two say that the server cannot, and will not
_LARGEST = 16 * 2**20  # bytes of an answer; 20 log-probabilities at each of 10,000 tokens take less
_HIDDEN = "[key]"


class Client:
    """A connection to an endpoint, for several threads.

    Args:
        address: where it is.
        key: what it is opened with; empty for none.
        timeout: seconds that an answer may take.
        concurrency: how many are asked for at once.
    """

    def __init__(self, address: Address, key: str, timeout: float, concurrency: int):
        check_packages()
        import httpx2

        self._address, self._key, self._timeout = address, key, timeout
        self._http = httpx2.Client(
            headers={"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})},
            timeout=timeout,
            limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            follow_redirects=False,  # the key is for this address alone
            verify=address.base.startswith("https"),  # reading certificates takes longer than an answer from here
            trust_env=not address.loopback,  # a proxy leads out of this machine
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, request: Mapping[str, Any]) -> tuple[str, Reply]:
        """Ask for a completion, once.

        Args:
            request: the body, as the API has it.

        Returns:
            The body of the answer, and what it holds.

        Raises:
            Failure: there is none.
        """
        import httpx2

        begun = time.monotonic()
        try:
            # ASCII, as half a pair of surrogates is no UTF-8.
            with self._http.stream("POST", self._address.path(request), content=json.dumps(request)) as answer:
                status, headers = answer.status_code, answer.headers
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if time.monotonic() - begun > self._timeout:  # each part is in time, but not all of them
                        raise Failure(f"no whole answer within {self._timeout:g} s", again=True, status=status)
                    if len(body) > _LARGEST:
                        raise Failure(f"an answer of more than {_LARGEST:,} bytes", again=False, status=status)
        except httpx2.TimeoutException as error:
            absent = isinstance(error, httpx2.ConnectTimeout)
            raise Failure(f"no answer within {self._timeout:g} s", again=True, absent=absent) from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            said = self._without_key(f"{type(error).__name__}: {error}")
            raise Failure(said, again=True, absent=isinstance(error, httpx2.ConnectError)) from error
        text = self._without_key(body.decode("utf-8", "replace"))
        if status != 200:
            wait = asked_to_wait(headers) if status in (429, 503) else 0.0
            said = f"status {status}: {_message(text)}"
            raise Failure(said, again=status in _PASSES, status=status, wait=wait, body=text)
        try:
            return text, read_reply(text, chat="messages" in request)
        except ValueError as error:
            raise Failure(f"half an answer, or none: {error}", again=True, status=status, body=text) from error

    def _without_key(self, text: str) -> str:
        """Take the key out of what a server says, so that it is written nowhere."""
        return text.replace(self._key, _HIDDEN) if self._key else text


def check_packages() -> None:
    """Check that an endpoint could be asked.

    Raises:
        EndpointError: a package is missing; the message says how it is had.
    """
    missing = [name for name in ("httpx2", "tenacity") if importlib.util.find_spec(name) is None]
    if missing:
        raise EndpointError(
            f"a judge at an endpoint needs {' and '.join(missing)}: pip install httpx2 tenacity, or in a clone "
            "pip install -e '.[judge]'"
        )


def _message(body: str) -> str:
    """Find a server's own words for what is wrong, at most 300 characters in one line."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    said = found if isinstance(found, str) else body if found is None else json.dumps(found)
    return " ".join(said.split())[:300] or "no message"
