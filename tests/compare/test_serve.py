"""Serving: on the loopback alone unless asked otherwise, beside a notebook, and until somebody presses Ctrl-C."""

import json
import os
import signal
import socket
import sys
import threading
import types
import urllib.error
import urllib.request

import pytest

pytest.importorskip("uvicorn", reason="the extra 'compare' is not installed: pip install starlette uvicorn")

from rlhf_jax.compare import CompareError, Item, Settings, Store, packages, serve
from rlhf_jax.compare.gate import REFUSED


@pytest.fixture
def made(tmp_path):
    """A store with one pair, and settings with the token of one rater."""
    store = Store.create(tmp_path / "people.sqlite", [Item("Hi.", "Hello!", "No.")], [], Settings())
    return store, Settings(tokens={"ann": store.add_rater("ann")})


def get(url, **headers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers)) as reply:
            return reply.status, reply.read().decode(), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_the_loopback_alone_is_served_and_only_with_a_token(made):
    """A second server asks for the same address and is told that it is taken."""
    store, settings = made
    with serve.Server(store, settings) as page:
        assert page.links["ann"].startswith(f"http://127.0.0.1:{page.port}/r/")
        assert page._socket.getsockname()[0] == "127.0.0.1"
        assert get(f"http://127.0.0.1:{page.port}/")[:2] == (403, REFUSED + "\n")
        status, text, headers = get(page.links["ann"])
        assert (status, "Go on to the page" in text) == (200, True)
        assert "server" not in headers
        assert get(page.links["ann"], Host="evil.example")[0] == 403
        assert get(f"http://127.0.0.1:{page.port}/f/{settings.tokens['ann']}/")[0] == 403  # no frames outside notebooks
        with pytest.raises(CompareError, match=rf"127\.0\.0\.1:{page.port} .*in use; choose another --port"):
            serve.Server(store, Settings(port=page.port))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", page.port)) != 0


def test_an_address_of_no_machine_is_named(made):
    with pytest.raises(CompareError, match=r"192\.0\.2\.1"):  # kept for examples (RFC 5737)
        serve.Server(made[0], Settings(host="192.0.2.1"))


def test_ctrl_c_ends_it_and_says_how_to_export(made, monkeypatch, capsys):
    store, settings = made
    store.add_rater("bo")

    waits, before = serve.Server.wait, signal.getsignal(signal.SIGINT)

    def interrupted(page):
        get(f"http://127.0.0.1:{page.port}/")
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        waits(page)

    monkeypatch.setattr(serve.Server, "wait", interrupted)
    serve.serve(store, settings)
    said = capsys.readouterr().out
    assert "ann: http://127.0.0.1:" in said
    assert "still work at port" in said and "bo" in said  # noqa: PT018
    assert f"rlhf data {store.path} --to FILE.jsonl" in said
    assert "bo: http" not in said
    assert signal.getsignal(signal.SIGINT) is before


def test_beside_a_notebook_the_page_is_a_frame_without_cookies(made, monkeypatch):
    """In Jupyter the loopback's address in a frame; nothing is displayed where there is no notebook."""
    store, settings = made
    shown = []
    display = types.ModuleType("IPython.display")
    display.IFrame, display.display = (lambda src, **size: src), shown.append
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(serve, "_in_notebook", lambda: True)
    page = serve.show(store, settings)
    try:
        (src,) = shown
        assert src == f"http://127.0.0.1:{page.port}/f/{settings.tokens['ann']}/"
        status, text, headers = get(src)
        assert (status, "Which response is better?" in text) == (200, True)
        assert headers["set-cookie"] is None
        assert "frame-ancestors http://localhost:*" in headers["content-security-policy"]
        state = json.loads(get(f"{src}state")[1])
        store.record(store.rater_of(settings.tokens["ann"]), state["shown"]["id"], "a", 3)
        rows = [json.loads(line) for line in page.export().read_text().splitlines()]
        assert [(row["preference"], row["rater"], row["confidence"]) for row in rows] == [("a", "ann", 1.0)]
    finally:
        page.stop()


def test_in_colab_the_page_comes_through_its_frame_of_a_port(made, monkeypatch):
    store, settings = made
    asked = []
    output = types.ModuleType("google.colab.output")
    output.serve_kernel_port_as_iframe = lambda port, path, height: asked.append((port, path, height))
    colab = types.ModuleType("google.colab")
    colab.output = output
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    page = serve.show(store, settings, height=700)
    try:
        path = f"/f/{settings.tokens['ann']}/"
        assert asked == [(page.port, path, "700")]
        here = f"http://127.0.0.1:{page.port}{path}"
        for host in (f"abc-{page.port}-colab.googleusercontent.com", f"{page.port}-gpu-t4.us-east1-0.prod.colab.dev"):
            assert get(here, Host=host)[0] == 200
        assert get(here, Host="evil.example")[0] == 403
        assert "frame-ancestors https://colab.research.google.com" in get(here)[2]["content-security-policy"]
    finally:
        page.stop()


def test_a_missing_package_is_named_with_what_to_install(made, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompareError, match=r"starlette and uvicorn: .*pip install -e '\.\[compare\]'"):
        serve.Server(*made)
