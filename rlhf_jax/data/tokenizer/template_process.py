"""Rendering chat templates in another process, which ends when a template takes too much of the machine.

One process serves all templates, and lives as long as this one. Where a template ends it, the next request starts
another.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("template_worker.py")
SECONDS = 10.0  # a processor's, for one chat; templates of published models take about a thousandth of a second


class TemplateFailed(ValueError):
    """A chat template that was not rendered: the text is the reason."""


class TemplateProcess:
    """A process that renders templates; it is started when the first one is to be rendered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = 0

    def render(self, source: str, date: str, variables: Mapping[str, Any]) -> str:
        """Render a template.

        Args:
            source: the template, in Jinja.
            date: what a template that asks for the date is told, YYYY-MM-DD.
            variables: JSON values by the names that the template has for them.

        Returns:
            The text that it writes.

        Raises:
            TemplateFailed: if it does not compile, fails, reaches for what the sandbox forbids, or takes too long.
        """
        request = {"source": source, "date": date, "variables": dict(variables), "seconds": SECONDS}
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            said = self._ask(line)
        if "text" not in said:
            raise TemplateFailed(said["error"])
        return said["text"]

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None or self._parent != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, line: bytes) -> dict[str, str]:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            said = process.stdout.readline()
        except BrokenPipeError:
            said = b""
        if said.endswith(b"\n"):
            return json.loads(said)
        status = process.wait()
        self.close()
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        return {"error": f"it takes more than {SECONDS:g} s or too much memory, and was stopped, {how}"}

    def _started(self) -> subprocess.Popen[bytes]:
        """Find the process, or start it: also in a fork, which must not read the answers to its parent."""
        if self._process is None or self._parent != os.getpid() or self._process.poll() is not None:
            # -P: the worker's folder is no place to import from. What this process can import, the other one can.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process, which may want to save first
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self._parent = os.getpid()
        return self._process


PROCESS = TemplateProcess()
atexit.register(PROCESS.close)
