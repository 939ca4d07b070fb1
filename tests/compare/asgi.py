"""A client for the page without a network: one request to an ASGI application, with the headers that the test names."""

import asyncio
import json
from typing import NamedTuple

HOST = "127.0.0.1:8000"
OURS = {"origin": f"http://{HOST}", "content-type": "application/json"}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)


def request(app, method, path, *, headers=(), body=b"", host=HOST):
    """Send a request, and collect the answer."""
    named = {**({"host": host} if host is not None else {}), **dict(headers)}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start, *rest = sent
    received = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], received, b"".join(message.get("body", b"") for message in rest))


class Rater:
    """What a rater's browser would do, by their token."""

    def __init__(self, app, token):
        self.app = app
        self.link = request(app, "GET", f"/r/{token}")
        cookie, *about = self.link.headers["set-cookie"].split("; ")
        self.cookie, self.about = {"cookie": cookie}, about
        (self.home,) = [word.removeprefix("Path=") for word in about if word.startswith("Path=")]

    def get(self, path=""):
        return request(self.app, "GET", self.home + path, headers=self.cookie)

    def post(self, path, value, **headers):
        sent = {**self.cookie, **OURS, **{name.replace("_", "-"): each for name, each in headers.items()}}
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return request(self.app, "POST", self.home + path, headers=sent, body=body)

    def shown(self):
        return self.get("state").json["shown"]

    def answer(self, verdict, shown=None, strength=2):
        return self.post(
            "answer", {"id": shown or self.shown()["id"], "verdict": verdict, "strength": strength, "seconds": 1.5}
        )
