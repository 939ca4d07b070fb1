"""What every stage that trains a policy does at an evaluation: keep samples, print alarms, look at the KL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax import processes
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.evaluation import Alarm
from rlhf_jax.stages.alarms import Alarms
from rlhf_jax.stages.comparison import Judged
from rlhf_jax.stages.heldout_samples import FirstAndLatest
from rlhf_jax.stages.judges import ruling_judge
from rlhf_jax.stages.monitors import monitor, monitor_alarms
from rlhf_jax.stages.samples import SampleLog, measured, shown

# Steps before which no reward need have risen, however short the run.
SOONEST = 20


class PolicyWatcher:
    """The ``Watcher`` that ``training.fit`` is given where a policy is trained.

    Args:
        directory: the run folder.
        stage: the name under which samples are kept and alarms are printed.
        prompts: the held-out prompts of every evaluation.
        judges: those that score the samples; ``gold``, or else the first, is held against the proxy.
        max_kl: the stage's limit of the KL, if it has one.
        half: half of the steps that the stage will make; a reward that has not risen is no alarm before.
        check_kl: ``(step, KL on held-out prompts) -> why the run should stop``; an empty text lets it go on.
    """

    def __init__(
        self,
        directory: Path,
        stage: str,
        prompts: Sequence[EncodedPrompt],
        judges: Collection[str] = (),
        max_kl: float | None = None,
        half: int = 0,
        check_kl: Callable[[int, float], str] | None = None,
    ):
        self._judge = ruling_judge(judges)
        self.alarms = Alarms(directory, stage, self._judge, max_kl, max(half, SOONEST))
        self.samples, self.heldout = SampleLog(directory, stage), FirstAndLatest(directory, stage)
        self._prompts, self._check_kl = prompts, check_kl
        self._judged: Judged | None = None

    def saw(self, judged: Judged) -> Judged:
        """Remember what an evaluation measured until ``evaluated`` tells its step, and return it."""
        self._judged = judged
        return judged

    def rewind(self, step: int) -> None:
        """Drop samples after the step that the run goes on from."""
        self.samples.rewind(step)
        self.heldout.rewind(step)

    def evaluated(self, step: int, values: Mapping[str, float]) -> str:
        """Keep the samples, print new alarms, and return why the run should stop, or an empty text."""
        if self._judged is not None:
            self.samples.add(step, shown(self._judged, self._prompts))
            self.heldout.add(step, measured(self._judged, self._prompts))
        self.alarms.report()
        self.alarms.say(self._found())
        return self._check_kl(step, values["heldout_kl"]) if self._check_kl is not None else ""

    def compared(self, rows: Sequence[Mapping[str, Any]], step: int) -> dict[str, Any]:
        """Keep the rows of the final comparison, and look at them and at the whole log.

        Args:
            rows: as ``comparison.compare`` makes them.
            step: whose parameters the stage leaves.

        Returns:
            ``alarms`` and ``monitors`` of the summary.
        """
        self.samples.compare(rows)
        if not processes.first():
            return {"alarms": [], "monitors": None}
        logged, found = self.alarms.report(), monitor(rows, self._judge)
        seen = monitor_alarms(found, step)
        # The checkpoint that was kept may be one from before the policy found it.
        later = [alarm for alarm in self._found() if alarm.name not in {known.name for known in seen}]
        self.alarms.say([*seen, *later])
        return {"alarms": [alarm._asdict() for alarm in (*logged, *seen, *later)], "monitors": found}

    def _found(self) -> list[Alarm]:
        """Alarms of what the policy found between the first evaluation and the latest; the first process has them."""
        if not processes.first():
            return []
        step, rows = self.heldout.compared()
        return monitor_alarms(monitor(rows, self._judge), step)
