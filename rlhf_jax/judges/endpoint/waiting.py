"""When a request may be sent: a rate that all threads keep together, and what the server asks for."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable, Mapping


class Turns:
    """Give requests their turn, so many a second at most, and none while the server wants to be left alone.

    Args:
        rate: requests a second; 0 for no limit.
        stop: set by whoever ends the work; nobody waits any longer.
        clock: seconds that only go up.

    Example:
        >>> turns = Turns(2.0, threading.Event(), clock=lambda: 10.0)
        >>> turns.turn(), turns.turn(), turns.turn()  # seconds to wait
        (0.0, 0.5, 1.0)
    """

    def __init__(self, rate: float, stop: threading.Event, *, clock: Callable[[], float] = time.monotonic):
        self._between = 1 / rate if rate else 0.0
        self._stop, self._clock = stop, clock
        self._lock = threading.Lock()
        self._next = 0.0
        self._quiet = 0.0

    def turn(self) -> float:
        """Take the next turn.

        Returns:
            The seconds until it comes.
        """
        with self._lock:
            now = self._clock()
            at = max(now, self._next, self._quiet)
            self._next = at + self._between
            return at - now

    def wait(self) -> None:
        """Wait for the next turn, and longer where the server has asked for it meanwhile."""
        left = self.turn()
        while left > 0 and not self._stop.is_set():
            self.sleep(left)
            with self._lock:
                left = self._quiet - self._clock()

    def leave_alone(self, seconds: float) -> None:
        """Send nothing for some seconds: what one request was told holds for all."""
        with self._lock:
            self._quiet = max(self._quiet, self._clock() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait some seconds, or until the work ends."""
        self._stop.wait(seconds)


def asked_to_wait(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float:
    """Read how long a server wants to be left alone.

    Args:
        headers: the answer's; ``retry-after-ms``, or ``retry-after`` in seconds or as a date.
        now: the wall's clock.

    Returns:
        Seconds; 0 where it does not say, or says what nobody understands.

    Example:
        >>> asked_to_wait({"retry-after": "2"}), asked_to_wait({"retry-after-ms": "250"}), asked_to_wait({})
        (2.0, 0.25, 0.0)
        >>> asked_to_wait({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=lambda: 50.0)
        10.0
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if text.replace(".", "", 1).isdecimal():
            return float(text) * unit
    try:
        at = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return max(0.0, at.timestamp() - now())
