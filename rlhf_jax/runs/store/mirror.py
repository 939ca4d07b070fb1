"""A run folder and its copy in an object store: what is sent, in which order, and what counts as there.

A folder that means something only when it is whole (a checkpoint's step, final parameters) is sent piece by piece, and
last of all an object ``_WHOLE.json`` that lists the pieces. Without it the folder does not count. It is removed before
anything else of the folder is.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from rlhf_jax import processes
from rlhf_jax.files import atomic_folder
from rlhf_jax.paths import inside
from rlhf_jax.runs.store.objects import Objects, StoreError

WHOLE = "_WHOLE.json"
_KNOWN = ".stored"  # in the local folder: which version of each whole folder it holds
_PATIENCE = 6 * 3600.0  # seconds that others may need for their pieces


class Mirror:
    """A local run folder that is sent to a store.

    Args:
        directory: the local folder. All processes see it.
        objects: the run in the store.
    """

    def __init__(self, directory: Path, objects: Objects):
        self.directory, self._objects = directory, objects

    @property
    def url(self) -> str:
        """Where the run is."""
        return self._objects.url

    def bring(self, *, checkpoints: bool) -> None:
        """Make the local folder what the store has, in the one process that calls it.

        Whole folders that are here already stay as they are. The store is what counts: files and folders of an earlier
        attempt that it does not have are removed.

        Args:
            checkpoints: fetch checkpoints too, to continue the run.
        """
        there = self._objects.sizes()
        if not there and not checkpoints:
            raise StoreError(f"{self.url}: nothing is there; look whether bucket and folder are written as they are")
        kinds = ("params/", "checkpoints/") if checkpoints else ("params/",)
        whole = {name.removesuffix(f"/{WHOLE}") for name in there if name.endswith(f"/{WHOLE}")}
        whole = {name for name in whole if name.startswith(kinds)}
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in sorted(whole):
            self._fetch(name)
        for found in [*self.directory.glob("params/*"), *self.directory.glob("checkpoints/*/*")]:
            if found.relative_to(self.directory).as_posix() not in whole:
                shutil.rmtree(found)
        for file in self.directory.iterdir():
            if file.is_file() and file.name not in there and not file.name.startswith("."):  # a lock, say
                file.unlink()
        for name in sorted(name for name in there if "/" not in name):
            self._objects.get(name, inside(self.directory, name, where=self.url))

    def _fetch(self, folder: str) -> None:
        """Fetch a whole folder, if it is not here already."""
        listed, known = self._objects.read(f"{folder}/{WHOLE}"), self.directory / _KNOWN / folder
        place = inside(self.directory, folder, where=self.url)
        if place.is_dir() and known.is_file() and known.read_bytes() == listed:
            return
        try:
            pieces = {str(name): int(size) for name, size in json.loads(listed)["pieces"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{self.url}/{folder}/{WHOLE} is none of ours ({error}); remove {folder} there") from error
        with atomic_folder(place) as scratch:
            for name, size in pieces.items():
                file = inside(scratch, name, where=f"{self.url}/{folder}/{WHOLE}")
                self._objects.get(f"{folder}/{name}", file)
                if file.stat().st_size != size:
                    raise StoreError(
                        f"{self.url}/{folder}/{name} has {file.stat().st_size} bytes, and {size} were written: "
                        f"remove {folder}/{WHOLE} there, and the step before it is taken"
                    )
        _note(known, listed)

    def send(self, folder: str) -> None:
        """Send a folder that is complete, each process its share of the files, so that the store has it whole or not.

        The logs go before its list, so a step is never there without the rows that lead up to it. Every process calls
        this, and fails by itself: the first finds out that pieces are missing, and does not write the list.

        Args:
            folder: its name in the run folder.
        """
        processes.barrier(f"{self.url}/{folder} is saved", timeout=_PATIENCE)
        base = self.directory / folder
        pieces = {p.relative_to(base).as_posix(): p.stat().st_size for p in sorted(base.rglob("*")) if p.is_file()}
        failed: StoreError | None = None  # kept until nobody waits for this process
        try:
            if processes.first():
                self._objects.remove({f"{folder}/{WHOLE}"} & self._objects.sizes().keys())
        except StoreError as error:
            failed = error
        processes.barrier(f"{self.url}/{folder} does not count", timeout=_PATIENCE)
        try:
            for name in list(pieces)[processes.share(len(pieces))]:
                self._objects.put(base / name, f"{folder}/{name}")
            self.send_logs()
        except StoreError as error:
            failed = error
        processes.barrier(f"{self.url}/{folder} is sent", timeout=_PATIENCE)
        if failed is not None:
            raise failed
        if processes.first():
            self._close(folder, pieces)

    def _close(self, folder: str, pieces: dict[str, int]) -> None:
        """Write the list of a folder's pieces, once all of them are there."""
        there = self._objects.sizes()
        missing = [name for name, size in pieces.items() if there.get(f"{folder}/{name}") != size]
        if missing:
            raise StoreError(f"{self.url}/{folder}: {len(missing)} pieces did not arrive, {missing[0]} among them")
        listed = json.dumps({"version": uuid.uuid4().hex, "pieces": pieces}).encode()
        self._objects.write(f"{folder}/{WHOLE}", listed)
        _note(self.directory / _KNOWN / folder, listed)

    def send_logs(self) -> None:
        """Send the files that stand in the run folder itself: metrics, config, summary, report; the first process does.

        What a writer is at work on is sent as far as it is; readers leave a torn last line out.
        """
        if not processes.first():
            return
        for file in sorted(self.directory.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                self._objects.put(file, file.name)

    def drop(self, parent: str, keeps: Callable[[str], bool]) -> None:
        """Remove folders from the store, in the first process.

        Args:
            parent: the folder that they stand in.
            keeps: tells by its name whether one stays.
        """
        if not processes.first():
            return
        names = [name for name in self._objects.sizes() if name.startswith(f"{parent}/")]
        gone = [name for name in names if not keeps(name.removeprefix(f"{parent}/").split("/")[0])]
        self._objects.remove(sorted(gone, key=lambda name: not name.endswith(f"/{WHOLE}")))


def _note(file: Path, listed: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(listed)
