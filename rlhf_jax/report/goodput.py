"""Where the time of each stage went: the rows of a table, and a drawing of the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rlhf_jax.report import plots
from rlhf_jax.report.formats import percent
from rlhf_jax.report.stage_names import stage_title
from rlhf_jax.training import Spent
from rlhf_jax.training.progress import duration

_KINDS = {
    "useful": "training steps",
    "compile": "compilation",
    "evaluation": "evaluation",
    "save": "saving",
    "start": "start",
    "restart": "restart and lost work",
    "idle": "idle",
}


class StageTime(NamedTuple):
    """A row of the table: the stage, how often it was begun, its wall time, goodput, and a cell for each kind."""

    title: str
    attempts: int
    wall: str
    goodput: str
    cells: tuple[str, ...]


class TimeSection(NamedTuple):
    """What the page shows of the time: the kinds that took any, a row a stage, and the drawing."""

    kinds: tuple[str, ...]
    rows: tuple[StageTime, ...]
    drawing: str


def time_section(goodput: Mapping[str, Spent], objectives: Mapping[str, str | None]) -> TimeSection | None:
    """Make the table and the drawing of where the time went.

    Args:
        goodput: by stage.
        objectives: by stage, what it minimised, for its title.

    Returns:
        What the page shows; None where no time has passed, or the run was made before there was a log of it.

    Example:
        >>> spent = {"useful": 60.0, "compile": 20.0, "evaluation": 0.0, "save": 0.0, "start": 0.0, "restart": 0.0}
        >>> found = time_section({"sft": Spent({**spent, "idle": 0.0}, attempts=1, step=9)}, {})
        >>> found.kinds, found.rows[0].cells, found.rows[0].goodput
        (('training steps', 'compilation'), ('1:00', '0:20'), '75.0%')
    """
    ran = {stage: spent for stage, spent in goodput.items() if spent.wall > 0}
    if not ran:
        return None
    kinds = [kind for kind in _KINDS if any(spent.seconds[kind] > 0 for spent in ran.values())]
    titles = {stage: stage_title(stage, objectives.get(stage)) for stage in ran}
    rows = [
        StageTime(
            titles[stage],
            spent.attempts,
            duration(spent.wall),
            percent(spent.goodput),
            tuple(duration(spent.seconds[kind]) for kind in kinds),
        )
        for stage, spent in ran.items()
    ]
    shares = {
        titles[stage]: {_KINDS[kind]: spent.seconds[kind] / spent.wall for kind in kinds}
        for stage, spent in ran.items()
    }
    return TimeSection(tuple(_KINDS[kind] for kind in kinds), tuple(rows), plots.shares(shares))
