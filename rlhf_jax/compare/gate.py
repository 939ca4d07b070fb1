"""The gate in front of the page: whoever has no token gets one sentence, whatever was asked for.

It stands before routing, so there is no path that it does not see. A rater's link is ``/r/TOKEN``: it leaves a cookie
and goes on to ``/p/SEAT/``, an address that is worth nothing without the cookie. Frames of notebooks get no cookies,
since they stand on another site's page; for them ``/f/TOKEN/`` is the page itself, where frames are allowed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "rlhf_rater"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
REFUSED = "This page is for raters who have a link of their own; ask whoever sent you here for yours."
FOREIGN = "This request comes from another page than the one that the link opens, so it is not answered."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """From where the page may be used, beside the token that is always asked for."""

    loopback: bool = True
    """Answer only to names of the loopback, so that a foreign name that leads here (DNS rebinding) is refused."""
    proxies: tuple[str, ...] = ()
    """Endings of the host names under which a notebook's proxy shows the page, such as `.googleusercontent.com`."""
    frames: tuple[str, ...] = ()
    """Who may show the page in a frame, as CSP's `frame-ancestors` writes it; nobody where it is empty."""

    def answers_to(self, host: str) -> bool:
        """Whether a ``Host`` header names this server.

        Args:
            host: the header, with or without a port.

        Example:
            >>> [Access().answers_to(name) for name in ("127.0.0.1:80", "[::1]:80", "evil.example:80", "")]
            [True, True, False, False]
        """
        name = _host_name(host)
        return bool(name) and (not self.loopback or name in LOOPBACK or name.endswith(self.proxies or (" ",)))


def seat(token: str) -> str:
    """Name the address of a rater's page, from which nobody finds the token.

    Example:
        >>> seat("a") == seat("a"), seat("a") == seat("b"), len(seat("a"))
        (True, False, 16)
    """
    return hashlib.sha256(b"seat " + token.encode()).hexdigest()[:16]


class Gate:
    """An ASGI application that lets requests with a token through, and adds the headers that every answer has.

    What it lets through has ``rater``, ``token`` and ``nonce`` in its state, and as its path what follows the token or
    the seat.

    Args:
        app: what is behind it.
        rater_of: who has a token; None where nobody has it.
        access: from where the page may be used.
    """

    def __init__(self, app: App, rater_of: Callable[[str], Any], access: Access):
        self._app, self._rater_of, self._access = app, rater_of, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return  # the server opens no websockets and waits for no lifespan
        nonce = secrets.token_urlsafe(16)
        guarded = _with_headers(send, _headers(self._access, nonce))
        headers = _headers_of(scope)
        if not self._access.answers_to(headers.get("host", "")):
            await _refuse(guarded, FOREIGN)
            return
        way, token, rest = _asked(scope["path"], headers)
        framed = way != "f" or bool(self._access.frames)
        rater = await asyncio.to_thread(self._rater_of, token) if token and framed else None
        if rater is None:
            await _refuse(guarded, REFUSED)
        elif scope["method"] not in ("GET", "HEAD") and not self._is_ours(headers):
            await _refuse(guarded, FOREIGN)
        else:
            state = {"rater": rater, "token": token, "nonce": nonce}
            inner = {**scope, "path": rest, "raw_path": rest.encode(), "root_path": "", "state": state}
            await self._app(inner, receive, guarded)

    def _is_ours(self, headers: Mapping[str, str]) -> bool:
        """Whether the page itself sends this, and no other page and no form."""
        _, _, origin = headers.get("origin", "").partition("://")
        proxied = self._access.proxies and _host_name(origin).endswith(self._access.proxies)
        site = headers.get("sec-fetch-site", "same-origin")
        kind = headers.get("content-type", "").partition(";")[0].strip()
        return bool(origin == headers["host"] or proxied) and site == "same-origin" and kind == "application/json"


def _asked(path: str, headers: Mapping[str, str]) -> tuple[str, str, str]:
    """Read which way a request comes, its token ("" where there is none), and the path behind."""
    way, _, rest = path.removeprefix("/").partition("/")
    name, slash, rest = rest.partition("/")
    if way == "r":
        return ("r", name, "/r") if not rest else ("", "", "")
    if not slash or way not in ("p", "f"):
        return "", "", ""
    if way == "f":
        return "f", name, f"/{rest}"
    token = _cookie(headers.get("cookie", ""))
    return ("p", token, f"/{rest}") if token and secrets.compare_digest(seat(token), _ascii(name)) else ("", "", "")


def _cookie(header: str) -> str:
    """Find our cookie among those of every other program of this machine, whatever those hold."""
    named = (part.strip().partition("=") for part in header.split(";"))
    return next((value for name, _, value in named if name == COOKIE), "")


def _ascii(name: str) -> str:
    return name if name.isascii() else ""


def _headers_of(scope: Scope) -> dict[str, str]:
    """Read a request's headers; one that comes twice has both values, which then fit nothing."""
    found: dict[str, str] = {}
    for key, value in scope["headers"]:
        name = key.decode("latin-1").lower()
        found[name] = f"{found[name]}; {value.decode('latin-1')}" if name in found else value.decode("latin-1")
    return found


def _host_name(host: str) -> str:
    """Take the port off a host, ``[::1]:80`` is ``::1``; what is no host has no name."""
    host = host.strip().lower()
    if not set(host).isdisjoint(" ,;/@?#"):
        return ""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _headers(access: Access, nonce: str) -> list[tuple[bytes, bytes]]:
    """Make the headers of every answer: nothing foreign is loaded, nothing is kept, nothing is framed unasked."""
    policy = {
        "default-src": "'none'",
        "script-src": f"'nonce-{nonce}'",
        "style-src": f"'nonce-{nonce}'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": " ".join(access.frames) or "'none'",
        "require-trusted-types-for": "'script'",
    }
    named = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        **({} if access.frames else {"x-frame-options": "DENY"}),
    }
    return [(name.encode(), value.encode()) for name, value in named.items()]


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sending


async def _refuse(send: Send, sentence: str) -> None:
    body = (sentence + "\n").encode()
    kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": kind})
    await send({"type": "http.response.body", "body": body})
