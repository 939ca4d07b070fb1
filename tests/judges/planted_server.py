"""A server on the loopback that answers as it is told, and fails in every way that a server can."""

import contextlib
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rlhf_jax.judges.endpoint import Address, Endpoint, EndpointConfig


def completion(text, places=None, usage=(10, 1)):
    """The body of a chat completion; ``places`` has for each token its text and {token: log-probability}."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if places is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": likely[token],
                    "top_logprobs": [{"token": other, "logprob": value} for other, value in likely.items()],
                }
                for token, likely in places
            ]
        }
    body = {"id": "1", "object": "chat.completion", "choices": [choice]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return body


def answer(text, places=None, usage=(10, 1)):
    return raw(json.dumps(completion(text, places, usage)))


def raw(body, status=200, headers=()):
    """Send a whole body, whatever it says."""

    def act(handler):
        content = body.encode()
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return act


def status(code, *headers, message="planted"):
    return raw(json.dumps({"error": {"message": message}}), code, headers)


def silent(seconds):
    """Say nothing for so long, then hang up."""
    return lambda handler: handler.server.stopped.wait(seconds)


def dripping(seconds):
    """Send a whole answer, a byte at a time, each soon after the one before."""

    def act(handler):
        content = json.dumps(completion("A")).encode()
        handler.send_response(200)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        for byte in content:
            if handler.server.stopped.wait(seconds / len(content)):
                return
            handler.wfile.write(bytes([byte]))

    return act


def half(handler):
    """Promise a whole answer, and hang up in the middle of it."""
    content = json.dumps(completion("A")).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])


def half_of_unknown_length(handler):
    """The same without saying how long it is."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(json.dumps(completion("A")).encode()[:60])


def half_in_chunks(handler):
    """Say that another chunk comes, and hang up."""
    handler.send_response(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'8\r\n{"choice\r\n')


def reset(handler):
    """Break the connection as a server that dies does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


class Planted:
    """What the server does, and what it has been asked.

    Args:
        plan: from the question's text and how often it has been asked by now, from 1, to what is done.
    """

    def __init__(self, plan):
        self.plan, self.asked, self.headers, self.times = plan, [], [], []
        self.counts, self.lock = {}, threading.Lock()
        self.under_way = self.most_under_way = 0

    def do(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        text = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
        assert handler.path == f"/v1/{'chat/' if 'messages' in request else ''}completions", handler.path
        with self.lock:
            self.asked.append(request)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            self.counts[text] = self.counts.get(text, 0) + 1
            count = self.counts[text]
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            self.plan(text, count)(handler)
        finally:
            with self.lock:
                self.under_way -= 1


@contextlib.contextmanager
def serving(plan):
    """Serve a plan; yields what the server has been asked, with ``base``, its address."""
    planted = Planted(plan)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            with contextlib.suppress(BrokenPipeError, ConnectionError):
                planted.do(self)
            self.close_connection = True

        def log_message(self, *_):
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """Planted failures are no errors."""

    server = Server(("127.0.0.1", 0), Handler)
    server.stopped = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    planted.base = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield planted
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def endpoint(planted, folder, **fields):
    """An endpoint at the planted server, which waits for hardly anything."""
    quick = {"backoff": 0.01, "timeout": 5.0, "cache": str(folder / "answers.sqlite"), **fields}
    return Endpoint(Address(planted.base, "judge-1"), EndpointConfig(**quick))
