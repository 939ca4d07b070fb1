"""What several processes print as one text: the first as it is, the others line by line with their number before it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, BinaryIO

# Lines that every process of a run may say. Anything else, such as a traceback, is kept whole.
_SAID_ONCE = (b"rlhf: error:", b"rlhf ", b"warning: ")


class Output:
    """The launcher's own standard output and error, written to by whoever has something to say."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: set[bytes] = set()
        self._readers: list[threading.Thread] = []

    def streams(self, index: int) -> tuple[int | None, int | None]:
        """Choose where a process' output and errors lead, as ``subprocess.Popen`` takes it.

        The first one's go where the launcher's go, so that a terminal stays one and bars are drawn. Its errors are
        read only if they are going to a file, to know what has been said.
        """
        if index:
            return subprocess.PIPE, subprocess.PIPE
        return None, None if sys.stderr.isatty() else subprocess.PIPE

    def listen(self, index: int, process: subprocess.Popen[bytes]) -> None:
        """Pass on what a process prints, from now on."""
        if process.stdout is not None:
            self._read(self._lines, index, process.stdout, sys.stdout.buffer)
        if process.stderr is not None:
            self._read(self._lines if index else self._whole, index, process.stderr, sys.stderr.buffer)

    def end(self, seconds: float = 2.0) -> None:
        """Wait until all is passed on, for so long: somebody that a process has started may still hold its streams."""
        for reader in self._readers:
            reader.join(seconds)
        self._readers.clear()
        self._said.clear()

    def say(self, text: str) -> None:
        """Print a line of the launcher's own."""
        self._write(sys.stderr.buffer, f"rlhf launch: {text}\n".encode())

    def _read(self, how: Callable[..., None], index: int, stream: IO[bytes], to: BinaryIO) -> None:
        reader = threading.Thread(target=how, args=(index, stream, to), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _whole(self, index: int, stream: IO[bytes], to: BinaryIO) -> None:
        del index
        begun = b""
        while chunk := os.read(stream.fileno(), 1 << 16):
            *lines, begun = (begun + chunk).split(b"\n")
            with self._lock:
                self._said.update(line for line in lines if line.startswith(_SAID_ONCE))
            self._write(to, chunk)

    def _lines(self, index: int, stream: IO[bytes], to: BinaryIO) -> None:
        for line in stream:
            text = line.rstrip(b"\r\n").rpartition(b"\r")[2]  # what a bar that is drawn over and over shows last
            if text.startswith(_SAID_ONCE):
                with self._lock:
                    said = text in self._said
                    self._said.add(text)
                if said:
                    continue
            self._write(to, b"[%d] %s\n" % (index, text))

    def _write(self, to: BinaryIO, text: bytes) -> None:
        with self._lock:
            try:
                to.write(text)
                to.flush()
            except (BrokenPipeError, ValueError):  # nobody reads any more; the processes must not wait for that
                return
