"""One process's attempt at a stage: a clock, its phases, its goodput log, its watchdog, and a dump where it fails."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax import processes
from rlhf_jax.checkpoint import CheckpointError, save_params
from rlhf_jax.data import Tokenizer
from rlhf_jax.models import ModelConfig
from rlhf_jax.runs import folder, lock
from rlhf_jax.runs.folder import RunResult, read_record
from rlhf_jax.runs.loading import Base
from rlhf_jax.runs.store import mirror_of
from rlhf_jax.stages.config import StageConfig
from rlhf_jax.stages.ending import raise_if_failed
from rlhf_jax.stages.ingredients import without_result
from rlhf_jax.stages.trackers import find_tracker, start_tracking
from rlhf_jax.stages.verdicts import stage_verdicts
from rlhf_jax.training import GoodputLog, LastUpdate, MetricsWriter, Phases, SkippedUpdates, Watchdog
from rlhf_jax.training.tracking import Tracker
from rlhf_jax.types import Params

page_follows: ContextVar[bool] = ContextVar("page_follows", default=False)
"""Whether whoever runs the stage writes its page afterwards, as the commands do; a stage that is called from Python
ends with the line that does."""


class Attempt:
    """What a stage has to know of itself while it runs, over all its restarts and in this process.

    Args:
        directory: the run folder.
        stage: the stage's name.
        config: its config, for the watchdog and the tracker.
        tracker: what is given every row of metrics; what ``config.tracker`` names by default.

    Raises:
        RunError: when the tracker cannot be used.
    """

    def __init__(self, directory: Path, stage: str, config: StageConfig, tracker: Tracker | None = None):
        self.directory, self._stage, self._config = directory, stage, config
        self._tracker = find_tracker(config.tracker) if tracker is None else tracker
        self._without_result = without_result(config)  # sentences on what it builds on
        self.host: dict[str, Any] = {"seconds": 0.0}  # kept in the checkpoint
        self._last = time.monotonic()
        self.phases = Phases()
        self.goodput = GoodputLog(directory, stage, self.phases, writes=processes.first())

    def lap(self) -> float:
        """Add the time since the last lap, and return the seconds that the stage has run over all its restarts."""
        lock.check(self.directory)
        now = time.monotonic()
        self.host["seconds"] += now - self._last
        self._last = now
        return round(self.host["seconds"], 1)

    def writer(self) -> MetricsWriter:
        """Open the metrics of the stage, which its tracker is given too."""
        return MetricsWriter(
            self.directory, self._stage, start_tracking(self._tracker, self.directory, self._stage, self._config)
        )

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch what happens inside: report it when it hangs, and count what is compiled."""
        watchdog = Watchdog(
            self.phases,
            stage=self._stage,
            seconds=self._config.watchdog_seconds,
            folder=self.directory,
            process=(jax.process_index(), jax.process_count()),
            ends=self._config.watchdog_exit,
        )
        with watchdog, self.phases.watched():
            try:
                yield
            except SkippedUpdates as error:  # there will be no summary of the stage to say it
                folder.update_json(self.directory / "summary.json", {"failed": {self._stage: str(error)}})
                raise

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Judge the trained model inside: as ``watched``, and it counts as evaluation."""
        with self.watched(), self.phases.during("evaluate"):
            yield

    def finish(
        self,
        *,
        params: Params,
        model_config: ModelConfig,
        tokenizer: Tokenizer,
        metrics: list[dict[str, Any]],
        summary: dict[str, Any],
        base: Base | None,
    ) -> RunResult:
        """Write the results, as ``runs.folder.finish`` does, and the last line of the goodput log.

        Raises:
            NothingTrained: when the summary says that the stage has failed; it is written then.
        """
        if self._without_result:
            summary = {**summary, "warnings": [*self._without_result, *summary.get("warnings", [])]}
        record = read_record(self.directory / "summary.json") if processes.first() else {}
        said = [verdict._asdict() for verdict in stage_verdicts(self._stage, {**record, self._stage: summary})]
        summary = {**summary, "verdicts": said}
        with self.watched(), self.phases.during("save"):
            found = folder.finish(
                self.directory,
                self._stage,
                self._config,
                params=params,
                model_config=model_config,
                tokenizer=tokenizer,
                metrics=metrics,
                summary=summary,
                seconds=self.lap(),
                base=base,
            )
        self.goodput.write()
        if mirror := mirror_of(self.directory):
            mirror.send_logs()
        if processes.first() and not page_follows.get():
            print(f"{self._stage}: report.write_report({os.fspath(self.directory)!r}) writes its page", file=sys.stderr)
        raise_if_failed(self.directory, self._stage, summary)
        return found

    def dump(self, last: LastUpdate, seen: Mapping[str, Any]) -> str:
        """Write what is there to look at after updates that were not finite, in place of an earlier dump of the stage.

        Args:
            last: the last update.
            seen: by name, what it was made from: arrays, trees of them, and lists of texts.

        Returns:
            A sentence for the error: where it is and how to read it, or why it could not be written.
        """
        path = self.directory / "dumps" / self._stage
        texts = {name: value for name, value in seen.items() if isinstance(value, list)}
        arrays = {name: value for name, value in seen.items() if name not in texts}
        tree = {"state": last.state, "metrics": jax.tree.map(np.asarray, dict(last.metrics)), **arrays}
        try:
            save_params(path, nested(tree), {"stage": self._stage, "step": last.step, **texts})
        except (CheckpointError, OSError) as error:  # the updates are what the run failed on; this comes second
            return f"The state could not be dumped ({error})"
        return (
            f"State, batch and metrics of step {last.step} are in {path}; to look at them: "
            f"from rlhf_jax import checkpoint; tree, about = checkpoint.load_params({os.fspath(path)!r})"
        )


def nested(tree: Any) -> Params:
    """Make nested dicts of a tree of any nodes, named by its paths; fields keep their names, places become numbers.

    Example:
        >>> import numpy as np
        >>> from rlhf_jax.training import KLState
        >>> nested({"controller": KLState(np.float32(1)), "pair": (np.zeros(1), np.ones(1))})
        {'controller': {'coef': np.float32(1.0)}, 'pair': {'0': array([0.]), '1': array([1.])}}
    """
    found: Params = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *above, own = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        node = found
        for key in above:
            node = node.setdefault(key, {})
        node[own] = leaf
    return found
