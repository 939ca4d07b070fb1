"""The page on which people compare, a Starlette application behind the gate: a page, and three requests that it makes.

``GET state`` says what a rater has before them, ``POST answer`` records a verdict, ``POST undo`` takes the last one
back; all three give the state that follows. Each may be sent twice: the second time changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rlhf_jax.compare.errors import StaleError
from rlhf_jax.compare.gate import COOKIE, Access, Gate, seat
from rlhf_jax.compare.readable import guideline, turns

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

VERDICTS = ("left", "right", "tie", "both_bad", "skip")
STRENGTHS = (1, 2, 3)
_MOST = 4096  # bytes of a request; an answer takes about 150
_COOKIE_SECONDS = 30 * 24 * 3600
_LONGEST = 7 * 24 * 3600.0  # seconds before one pair that are kept; a page may lie open for long


class AnySession(Protocol):
    """What the page asks for: ``sessions.Session``, or a stand-in."""

    def next(self, rater: Any) -> Any:
        """Give what the rater has before them, the same until it is answered; None at the end."""

    def answer(self, rater: Any, shown_id: str, verdict: Any, strength: Any, seconds: float) -> Any:
        """Record a verdict; the same showing a second time changes nothing."""

    def undo(self, rater: Any) -> Any:
        """Take the rater's last verdict back."""

    def progress(self, rater: Any) -> Any:
        """Say how far the rater is."""


class Answer(NamedTuple):
    """One verdict, as the page sends it."""

    id: str
    verdict: str
    strength: int
    seconds: float  # for which the pair was looked at


def make_app(
    session: AnySession,
    rater_of: Callable[[str], Any],
    *,
    rubric: str = "",
    access: Access | None = None,
    joined: Callable[[str], None] = print,
) -> Gate:
    """Make the application.

    Args:
        session: what raters see, and where their verdicts go.
        rater_of: who has a token, as a rater with a ``name``; None where nobody has it.
        rubric: what raters are told to look at.
        access: from where the page may be used; the loopback alone where it is left out.
        joined: told a sentence when a rater opens the page for the first time since the start.

    Returns:
        An ASGI application.

    Raises:
        ModuleNotFoundError: Starlette is missing.
    """
    from starlette.applications import Starlette
    from starlette.routing import Route

    page = _Page(session, rubric, joined)
    routes = [
        Route("/r", page.link, methods=["GET"]),
        Route("/", page.page, methods=["GET"]),
        Route("/state", page.state, methods=["GET"]),
        Route("/answer", page.answer, methods=["POST"]),
        Route("/undo", page.undo, methods=["POST"]),
    ]
    return Gate(Starlette(routes=routes), rater_of, access or Access())


def read_answer(body: Any) -> Answer:
    """Check what came as an answer.

    Args:
        body: the JSON value that was sent.

    Returns:
        The answer; seconds are cut to a week.

    Raises:
        ValueError: it is no answer; the message names the field.

    Example:
        >>> read_answer({"id": "k7", "verdict": "left", "strength": 2, "seconds": 3.5})
        Answer(id='k7', verdict='left', strength=2, seconds=3.5)
        >>> read_answer({"id": "k7", "verdict": "up", "strength": 2, "seconds": 3.5})
        Traceback (most recent call last):
        ...
        ValueError: verdict must be one of left, right, tie, both_bad, skip, found 'up'
    """
    shown = _shown_id(body)
    verdict, strength, seconds = body.get("verdict"), body.get("strength"), body.get("seconds")
    if verdict not in VERDICTS:
        raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, found {verdict!r:.40}")
    if type(strength) is not int or strength not in STRENGTHS:
        raise ValueError(f"strength must be 1, 2 or 3, found {strength!r:.40}")
    # No float holds an integer of 400 digits; a comparison takes it, and says no to nan.
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ValueError(f"seconds must be a number of at least 0, found {seconds!r:.40}")
    return Answer(shown, verdict, strength, float(min(seconds, _LONGEST)))


class _Page:
    """The endpoints."""

    def __init__(self, session: AnySession, rubric: str, joined: Callable[[str], None]):
        self._session, self._joined = session, joined
        self._rubric = guideline(rubric)
        self._templates = _templates()
        self._seen: set[str] = set()
        # One rater's two tabs may ask at the same time; what is between a look and a change is nobody else's.
        self._alone = threading.Lock()

    async def link(self, request: Request) -> Response:
        """Leave the cookie, and go on to the address without the token.

        A redirect by status would not do: where the link was clicked on another site, browsers count the redirect as
        that site's and keep a strict cookie back. The page's own refresh is its own.
        """
        from starlette.responses import HTMLResponse

        token = request.state.token
        to = f"/p/{seat(token)}/"
        response = HTMLResponse(self._templates.get_template("link.html").render(to=to))
        response.set_cookie(COOKIE, token, max_age=_COOKIE_SECONDS, path=to, httponly=True, samesite="strict")
        return response

    async def page(self, request: Request) -> Response:
        """Give the page, with its script and style in it."""
        from starlette.responses import HTMLResponse

        name = request.state.rater.name
        if name not in self._seen:
            self._seen.add(name)
            self._joined(f"{name} has joined")
        template = self._templates.get_template("page.html")
        return HTMLResponse(template.render(rater=name, rubric=self._rubric, nonce=request.state.nonce))

    async def state(self, request: Request) -> Response:
        """Say what the rater has before them."""
        return await self._reply(lambda: self._state(request.state.rater))

    async def answer(self, request: Request) -> Response:
        """Record a verdict."""
        try:
            answer = read_answer(await _json(request))
        except ValueError as error:
            return _said(400, error)

        def record() -> dict[str, Any]:
            rater = request.state.rater
            said = self._session.answer(rater, *answer)
            return {"correct": said.correct, "explanation": said.explanation, **self._state(rater)}

        return await self._reply(record)

    async def undo(self, request: Request) -> Response:
        """Take the last verdict back, where the rater still sees what followed it."""
        try:
            shown = _shown_id(await _json(request), empty=True)
        except ValueError as error:
            return _said(400, error)

        def back() -> dict[str, Any]:
            rater = request.state.rater
            now = self._session.next(rater)
            undone = shown == ("" if now is None else now.id) and self._session.undo(rater) is not None
            return {"undone": undone, **self._state(rater)}

        return await self._reply(back)

    def _state(self, rater: Any) -> dict[str, Any]:
        shown, progress = self._session.next(rater), self._session.progress(rater)
        return {
            "shown": None
            if shown is None
            else {
                "id": shown.id,
                "kind": shown.kind,
                "turns": turns(shown.prompt),
                "left": shown.left,
                "right": shown.right,
                "clips": [json.loads(clip) for clip in (shown.left_clip, shown.right_clip) if clip],
            },
            "progress": {
                "done": progress.done,
                "total": progress.total,
                "per_hour": progress.per_hour,
                "calibrated": progress.calibrated,
                "agreement": progress.agreement,
                "alpha": progress.alpha,
            },
        }

    async def _reply(self, work: Callable[[], dict[str, Any]]) -> Response:
        """Do work on the store in a thread, one piece at a time, and give its state as JSON."""
        from starlette.responses import Response

        def locked() -> dict[str, Any]:
            with self._alone:
                return work()

        try:
            state = await asyncio.to_thread(locked)
        except StaleError as error:
            return _said(409, error)
        # A response may hold half a surrogate pair, which only an escape can carry.
        return Response(json.dumps(state, ensure_ascii=True, allow_nan=False), media_type="application/json")


def _said(status: int, error: Exception) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": str(error)}, status_code=status)


async def _json(request: Request) -> Any:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST:
            raise ValueError(f"a request holds at most {_MOST} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("a request is one JSON object") from error


def _shown_id(body: Any, *, empty: bool = False) -> str:
    """Read which showing is meant; ``empty`` allows "", the end."""
    shown = body.get("id") if isinstance(body, dict) else None
    if not isinstance(shown, str) or not shown.isascii() or len(shown) > 200 or not (shown or empty):
        raise ValueError(f"id must be the name of a pair that was shown, found {shown!r:.40}")
    return shown


def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
