"""Serving the page: on the loopback unless another address is asked for; until Ctrl-C, or beside a notebook."""

from __future__ import annotations

import errno
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rlhf_jax.compare.app import make_app
from rlhf_jax.compare.errors import CompareError
from rlhf_jax.compare.exporting import export
from rlhf_jax.compare.gate import LOOPBACK, Access
from rlhf_jax.compare.packages import check_packages
from rlhf_jax.compare.sessions import Session
from rlhf_jax.compare.settings import Settings
from rlhf_jax.compare.store import Store

# Colab shows a port of the machine under a name of its own; Jupyter and VS Code frame the loopback.
_COLAB = (".googleusercontent.com", ".colab.dev")
_COLAB_FRAMES = ("https://colab.research.google.com", *(f"https://*{name}" for name in _COLAB))
_LOCAL_FRAMES = ("http://localhost:*", "http://127.0.0.1:*", "vscode-webview:")
_STARTS_WITHIN = 30.0  # seconds
_STOPS_WITHIN = 5.0
_EVERYWHERE = ("0.0.0.0", "::", "")


class Server:
    """The page, served by a thread of this process from the moment this is made.

    Args:
        store: what is compared.
        settings: how, and at which ``host`` and ``port``; ``tokens`` are those whose links are known.
        access: from where it may be used; by default from names of the loopback where it is served there.

    Raises:
        CompareError: the address is taken, or is none of this machine's; or a package is missing.

    Example:
        >>> with Server(store, settings) as page:  # doctest: +SKIP
        ...     print(page.links["ann"])
    """

    def __init__(self, store: Store, settings: Settings, *, access: Access | None = None):
        check_packages()
        import uvicorn

        self.store, self.settings = store, settings
        access = access or Access(loopback=settings.host in LOOPBACK)
        app = make_app(
            Session(store, settings), store.rater_of, rubric=settings.rubric, access=access, joined=self._say
        )
        # An access log would hold tokens; headers of proxies are believed by nobody.
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        self._socket = _bind(settings.host, settings.port)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True, name="compare")
        self._thread.start()
        deadline = time.monotonic() + _STARTS_WITHIN
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        if not self._server.started:
            self.stop()
            raise CompareError(f"the page cannot be served at {settings.host}:{self.port}; what failed is said above")

    @property
    def links(self) -> dict[str, str]:
        """The link of each rater who was added, or given a new link, at this start."""
        return {name: f"{self._base}/r/{token}" for name, token in self.settings.tokens.items()}

    @property
    def frame_paths(self) -> dict[str, str]:
        """The path of each rater's page for a frame, which keeps no cookies."""
        return {name: f"/f/{token}/" for name, token in self.settings.tokens.items()}

    @property
    def _base(self) -> str:
        host = self.settings.host
        named = socket.gethostname() if host in _EVERYWHERE else host
        return f"http://{f'[{named}]' if ':' in named else named}:{self.port}"

    def export(self, path: str | Path = "") -> Path:
        """Write what was said by now as rows of preferences, one JSON object a line; raters may go on meanwhile.

        Args:
            path: the file, replaced in one step; by default it lies beside the store and has its name.

        Returns:
            The file.

        Raises:
            CompareError: nobody has compared anything yet.
        """
        to = Path(path) if path else self.store.path.with_suffix(".jsonl")
        export(self.store.path, to)
        return to

    def wait(self) -> None:
        """Wait until somebody presses Ctrl-C, or the server ends; to be called in the main thread."""
        # An exception would be lost that is raised while a callback of another library runs, as jax's at collections.
        pressed = threading.Event()
        before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
        try:
            while self._thread.is_alive() and not pressed.wait(0.2):
                pass
        finally:
            signal.signal(signal.SIGINT, before)

    def stop(self) -> None:
        """Stop serving; every answer that was given is in the store already."""
        self._server.should_exit = True
        self._thread.join(_STOPS_WITHIN)
        self._socket.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _say(self, sentence: str) -> None:
        print(sentence, flush=True)


def serve(store: Store, settings: Settings) -> None:
    """Serve the page until Ctrl-C: print the links, then a line for every rater who joins.

    Args:
        store: what is compared.
        settings: how, and where.

    Raises:
        CompareError: as ``Server``.
    """
    with Server(store, settings) as server:
        for name, link in server.links.items():
            print(f"{name}: {link}")
        known = [rater.name for rater in store.raters() if rater.name not in server.links]
        if known:
            print(f"links given before still work at port {server.port}: {', '.join(known)}")
        print(f"answers go to {store.path}; Ctrl-C ends it", flush=True)
        server.wait()
    count = len(store.labels())
    print(
        f"{count:,} answer{' is' if count == 1 else 's are'} in {store.path}; "
        f"as rows: rlhf data {store.path} --to FILE.jsonl"
    )


def show(store: Store, settings: Settings, *, height: int = 900) -> Server:
    """Serve the page beside a notebook, and show the first rater's in the cell.

    In Colab the page comes through the frame that Colab makes of a port; in Jupyter and VS Code it is a frame of the
    loopback, so that the browser has to be on the kernel's machine, or reach its port through a tunnel. Outside a
    notebook nothing is shown, and ``links`` are there to be opened.

    Args:
        store: what is compared.
        settings: how, with the tokens of the raters.
        height: how tall the frame is, in pixels.

    Returns:
        The server: ``links``, ``export(path)``, ``stop()``.

    Raises:
        CompareError: as ``Server``.
    """
    colab = "google.colab" in sys.modules
    frames = _COLAB_FRAMES if colab else _LOCAL_FRAMES
    loopback = settings.host in LOOPBACK
    server = Server(store, settings, access=Access(loopback=loopback, proxies=_COLAB if colab else (), frames=frames))
    first = next(iter(server.frame_paths.values()), None)
    if first is not None:
        _frame(server.port, first, height, colab)
    return server


def _frame(port: int, path: str, height: int, colab: bool) -> None:
    if colab:
        from google.colab import output

        output.serve_kernel_port_as_iframe(port, path=path, height=str(height))
    elif _in_notebook():
        from IPython.display import IFrame, display

        display(IFrame(f"http://127.0.0.1:{port}{path}", width="100%", height=height))


def _in_notebook() -> bool:
    """Whether a cell is being run, by a kernel that can show a frame."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return get_ipython() is not None


def _bind(host: str, port: int) -> Any:
    """Take the address, so that one that is taken already is said before anything runs."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CompareError(f"host {host!r}: {error.strerror or error}; name an address of this machine") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a kill the port is free at once
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        elsewhere = error.errno == errno.EADDRNOTAVAIL
        todo = "--host names an address of this machine" if elsewhere else "choose another --port, 0 for a free one"
        raise CompareError(f"{host}:{port} cannot be served at: {error.strerror}; {todo}") from error
    return bound
