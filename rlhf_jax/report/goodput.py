"""Where the time of each stage went: the rows of a table, and a drawing of the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rlhf_jax.report import plots
from rlhf_jax.report.formats import percent
from rlhf_jax.stages.titles import stage_title
from rlhf_jax.training import Spent
from rlhf_jax.training.progress import duration

_KINDS = {
    "useful": "training steps",
    "compile": "compilation",
    "evaluation": "evaluation",
    "save": "saving",
    "start": "start",
    "restart": "restarts and lost work",
    "idle": "idle",
}


class TimeSection(NamedTuple):
    """What the page shows of the time: a column a stage, a row a figure with a cell for each stage, and the drawing."""

    stages: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
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
        >>> found.stages, [(what, cells[0]) for what, cells in found.rows if what in ("goodput", "compilation")]
        (('Supervised fine-tuning',), [('goodput', '75.0%'), ('compilation', '0:20')])
    """
    ran = {stage: spent for stage, spent in goodput.items() if spent.wall > 0}
    if not ran:
        return None
    every = list(ran.values())
    kinds = [kind for kind in _KINDS if any(spent.seconds[kind] > 0 for spent in every)]
    titles = {stage: stage_title(stage, objectives.get(stage)) for stage in ran}
    rows = [
        ("goodput", tuple(percent(spent.goodput) for spent in every)),
        ("attempts", tuple(str(spent.attempts) for spent in every)),
        ("wall time", tuple(duration(spent.wall) for spent in every)),
        *((_KINDS[kind], tuple(duration(spent.seconds[kind]) for spent in every)) for kind in kinds),
    ]
    shares = {
        titles[stage]: {_KINDS[kind]: spent.seconds[kind] / spent.wall for kind in kinds}
        for stage, spent in ran.items()
    }
    return TimeSection(tuple(titles.values()), tuple(rows), plots.shares(shares))
