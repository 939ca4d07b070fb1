"""Objects below one URL of a store, through fsspec: list, send, fetch, remove, with errors that say what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlhf_jax.runs.errors import RunError

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_URL = re.compile(r"(s3|gs):/+(.+)")


class StoreError(RunError):
    """An object store that cannot be reached, or does not take or give what it should; the text says what to do."""


def url_of(text: Any) -> str | None:
    """Recognise the URL of a run in an object store, in one form; None for a path.

    Args:
        text: a path or a URL. ``pathlib`` makes one slash of two, so ``s3:/`` is meant as ``s3://`` too.

    Raises:
        StoreError: the URL names a bucket alone.

    Example:
        >>> url_of("s3://bucket/runs/mine/"), url_of(Path("s3://bucket/mine")), url_of("runs/mine")
        ('s3://bucket/runs/mine', 's3://bucket/mine', None)
    """
    found = _URL.fullmatch(str(text))
    if found is None:
        return None
    scheme, place = found[1], "/".join(part for part in found[2].split("/") if part)
    if "/" not in place or ".." in place.split("/"):
        raise StoreError(f"{text}: expected {scheme}://BUCKET/FOLDER, with the run's folder behind the bucket")
    return f"{scheme}://{place}"


class Objects:
    """The objects below a URL, by their names relative to it.

    Args:
        url: as ``url_of`` gives it. Credentials and other servers than Amazon's and Google's are the environment's
            to say, as ``s3fs`` and ``gcsfs`` read it (``AWS_ENDPOINT_URL``, ``STORAGE_EMULATOR_HOST``).

    Raises:
        StoreError: the package for this kind of store is missing.
    """

    def __init__(self, url: str):
        self.url = url
        scheme, _, self._root = url.partition("://")
        try:
            import fsspec

            # What another process wrote just now has to be seen.
            self._system = fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(
                f"{url}: {scheme}:// needs the package {_PACKAGES[scheme]}: pip install '{_PACKAGES[scheme]}', or in a "
                "clone pip install -e '.[stores]'"
            ) from error

    def sizes(self) -> dict[str, int]:
        """List all objects, with their sizes in bytes; a folder that is not there has none."""
        with self._reached("listing"):
            found = self._system.find(self._root, detail=True)
        return {name[len(self._root) + 1 :]: int(about["size"] or 0) for name, about in found.items()}

    def put(self, file: Path, name: str) -> None:
        """Send a file; the object is there once all of it is."""
        with self._reached(f"writing {name}"):
            self._system.put_file(str(file), f"{self._root}/{name}")

    def get(self, name: str, file: Path) -> None:
        """Fetch an object into a file; the folders above it are made."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._reached(f"reading {name}"):
            self._system.get_file(f"{self._root}/{name}", str(file))

    def write(self, name: str, content: bytes) -> None:
        """Make an object of bytes."""
        with self._reached(f"writing {name}"):
            self._system.pipe_file(f"{self._root}/{name}", content)

    def read(self, name: str) -> bytes:
        """Read an object whole."""
        with self._reached(f"reading {name}"):
            return self._system.cat_file(f"{self._root}/{name}")

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, one after the other."""
        with self._reached("removing"):
            for name in names:
                self._system.rm_file(f"{self._root}/{name}")

    @contextlib.contextmanager
    def _reached(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store's client has errors of its own
            said = str(error).splitlines()[0][:200] if str(error) else ""
            raise StoreError(f"{self.url}: {what} failed ({type(error).__name__}: {said}); {_advice(error)}") from error


def _advice(error: Exception) -> str:
    kind, said = type(error).__name__, str(error).lower()
    if "credential" in kind.lower() or "credential" in said:
        return (
            "give this machine credentials: aws configure or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://, "
            "gcloud auth application-default login for gs://"
        )
    if isinstance(error, PermissionError) or "forbidden" in said or "access denied" in said:
        return "its credentials need the right to list, read, write and delete there"
    if isinstance(error, FileNotFoundError) or "bucket" in said:
        return "make the bucket first, and see that its name is right"
    return "see that the network reaches the store, and run the same command again"
