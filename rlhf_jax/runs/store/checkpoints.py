"""Checkpoints that go on to an object store once they are complete here, in the background of the steps that follow."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any

from rlhf_jax import processes
from rlhf_jax.checkpoint import Checkpoints, Restored
from rlhf_jax.runs.store.mirror import Mirror


class StoredCheckpoints:
    """The checkpoints of one stage, here and in a store.

    Args:
        checkpoints: those in the local folder.
        mirror: where they go.
    """

    def __init__(self, checkpoints: Checkpoints, mirror: Mirror):
        self._here, self._mirror = checkpoints, mirror
        self._parent = checkpoints.directory.relative_to(mirror.directory).as_posix()
        self._sending: threading.Thread | None = None
        self._failed: Exception | None = None

    def save(self, step: int, tree: Any, host: Mapping[str, Any]) -> None:
        """Save as ``Checkpoints`` does, and send the step once it is complete; the next ``save`` or ``wait`` waits.

        Raises:
            CheckpointError: this save or the one before cannot be written.
            StoreError: the one before could not be sent.
        """
        self.wait()
        self._here.save(step, tree, host)
        self._sending = threading.Thread(target=self._send, args=(step,), name=f"send-{step}", daemon=True)
        self._sending.start()

    def wait(self) -> None:
        """Block until the last save is in the store, and remove the steps there that are no longer here.

        Raises:
            CheckpointError: it could not be written.
            StoreError: it could not be sent; the step before it is in the store.
        """
        if self._sending is not None:
            self._sending.join()
            self._sending = None
            processes.agree(self._raise, f"sending a checkpoint to {self._mirror.url}")
        self._here.wait()

    def restore(self, like: Any, shardings: Any = None) -> Restored | None:
        """Read the newest step that verifies, as ``Checkpoints`` does, of those that were fetched."""
        self.wait()
        return self._here.restore(like, shardings)

    def _send(self, step: int) -> None:
        try:
            self._here.wait()
            self._mirror.send(f"{self._parent}/{step}")
            kept = {str(known) for known in self._here.steps()}
            self._mirror.drop(self._parent, kept.__contains__)
        except processes.LostProcessError as gone:
            # Whoever waits for the others does so in vain, and JAX aborts in a moment.
            print(f"{self._mirror.url}/{self._parent}/{step}: {gone}", file=sys.__stderr__, flush=True)
            processes.end_at_once(gone.exit_code)
        except Exception as error:  # raised by whoever waits
            self._failed = error

    def _raise(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed


def send_params(mirror: Mirror, stage: str) -> None:
    """Send the final parameters of a stage; every process calls it, and all fail where one does.

    Args:
        mirror: the run's.
        stage: the stage's name.
    """
    processes.agree(lambda: mirror.send(f"params/{stage}"), f"sending the {stage} stage to {mirror.url}")
