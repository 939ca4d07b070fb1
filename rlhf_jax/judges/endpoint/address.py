"""Where an endpoint is, which model answers there, and by which key."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rlhf_jax.judges.endpoint.errors import EndpointError


class Address(NamedTuple):
    """An endpoint and a model of it."""

    base: str
    """Up to the version, as ``http://127.0.0.1:8000/v1``."""
    model: str

    def path(self, request: Mapping[str, Any]) -> str:
        """Say where a request goes: a chat has messages, a text that is continued has none."""
        return f"{self.base}/{'chat/' if 'messages' in request else ''}completions"

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.base).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def read_address(name: str) -> Address:
    """Read what names an endpoint.

    Args:
        name: ``http://HOST:PORT/v1#MODEL``, or with https.

    Returns:
        The address.

    Raises:
        EndpointError: it has no host or no model, or it holds a password, which would be written down with it.

    Example:
        >>> read_address("http://127.0.0.1:8000/v1/#org/model-7b")
        Address(base='http://127.0.0.1:8000/v1', model='org/model-7b')
    """
    form = "expected http://HOST:PORT/v1#MODEL, or with https"
    url, _, model = name.partition("#")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise EndpointError(f"judge {name!r:.200}: {error}; {form}") from error
    if parts.username is not None or parts.password is not None:
        raise EndpointError(
            f"judge {parts.scheme}://...@{parts.hostname}: a name or password in the address would be written down "
            "with it; put the key in an environment variable and name that by --endpoint.key"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query:
        raise EndpointError(f"judge {name!r:.200}: {form}")
    if not model.strip():
        raise EndpointError(f"judge {name!r:.200} names no model: {form}")
    base = url.rstrip("/")
    if base.endswith("/completions"):
        raise EndpointError(f"judge {name!r:.200}: leave out what comes behind the version, it is added")
    return Address(base, model)


def read_key(variable: str) -> str:
    """Read an API key from the environment.

    Args:
        variable: the variable's name; no key is read where it is empty.

    Returns:
        The key, to be sent and never to be written.

    Raises:
        EndpointError: the variable is not set, or holds what no header can.

    Example:
        >>> read_key("")
        ''
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EndpointError(f"the environment variable {variable}, which --endpoint.key names, is empty or not set")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EndpointError(f"the environment variable {variable} holds spaces or what is no ASCII: no API key does")
    return key
