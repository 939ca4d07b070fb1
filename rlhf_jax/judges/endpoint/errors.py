"""What goes wrong with an endpoint: mistakes, which the same command makes again, and what is outside, which passes."""

from __future__ import annotations


class EndpointError(ValueError):
    """An endpoint that cannot be asked as it was named: no such model, a key that is refused, a package missing.

    Example:
        >>> raise EndpointError("judge: http://127.0.0.1:8000/v1 knows no model 'mine'")
        Traceback (most recent call last):
        ...
        rlhf_jax.judges.endpoint.errors.EndpointError: judge: http://127.0.0.1:8000/v1 knows no model 'mine'
    """


class EndpointUnavailable(EndpointError):
    """An endpoint that gives no answers now; what it has answered is kept, and the same command goes on from there."""


class Failure(Exception):
    """One try to get an answer that failed.

    Args:
        what: what went wrong, in a few words.
        again: whether another try may succeed.
        status: the HTTP status; 0 where there was none.
        wait: seconds for which the server asks to be left alone; 0 where it does not say.
        body: what it sent.
        absent: whether there was nobody to ask.
    """

    def __init__(
        self, what: str, *, again: bool, status: int = 0, wait: float = 0.0, body: str = "", absent: bool = False
    ):
        super().__init__(what)
        self.what, self.again, self.status, self.wait, self.body, self.absent = what, again, status, wait, body, absent
