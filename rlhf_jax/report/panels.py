"""Which logged figures stand in which diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlhf_jax.evaluation.alarms import LARGEST_GAP
from rlhf_jax.report.plots import Line, Panel
from rlhf_jax.report.run_folder import Row, series
from rlhf_jax.stage_names import COMPARED_STAGES

# title, {figure: label in the diagram}, band the figure should stay in
Spec = tuple[str, Mapping[str, str], tuple[float, float] | None]

# A figure that stays so far below its limit is a line along the bottom of its diagram.
_FLAT = 0.05
_USUAL_JUDGES = {"gold": "gold score", "vader": "score by VADER"}
_BOTH = ("training prompts", "held-out prompts")


def _spec(title: str, lines: Mapping[str, str] | str, band: tuple[float, float] | None = None) -> Spec:
    """A diagram of several figures, or of one, whose title says enough."""
    return (title, {lines: title} if isinstance(lines, str) else lines, band)


def _over(figure: str, heldout: str, names: tuple[str, str] = ("training", "held out")) -> dict[str, str]:
    return {figure: names[0], heldout: names[1]}


_LEARNING_RATE = _spec("learning rate", "learning_rate")
_PROXY = [_spec("proxy reward", _over("proxy_mean", "heldout_proxy", _BOTH))]
_OWN_SAMPLES = _spec("pairs of its own samples that the proxy orders as the judge does", "heldout_proxy_accuracy")
_RESPONSES = [
    _spec("response length, tokens", _over("length", "heldout_length", _BOTH)),
    _spec("share of responses that end", _over("eos_rate", "heldout_eos", _BOTH)),
]
# Figures of objectives on pairs, whether people ordered them or a reward model did.
_PAIRS = [
    _spec("pairs the implicit reward ranks right", _over("accuracy", "heldout_accuracy")),
    _spec("implicit reward: chosen less rejected", _over("reward_margin", "heldout_reward_margin")),
    _spec("implicit reward, training pairs", {"chosen_reward": "chosen", "rejected_reward": "rejected"}),
    _spec("log-prob, training pairs, nats", {"chosen_logprob": "chosen", "rejected_logprob": "rejected"}),
    _spec(
        "implicit reward, training responses", {"desirable_reward": "thumbs up", "undesirable_reward": "thumbs down"}
    ),
]
# Figures that a stage does not log have no diagram, so PPO and the group methods share one list.
_ONLINE = [
    *_PROXY,
    _OWN_SAMPLES,
    _spec("KL to the start, nats a response", _over("kl", "heldout_kl", _BOTH)),
    _spec("KL to the start, nats a token", "kl_per_token"),
    _spec("KL coefficient β", "kl_coef"),
    *_RESPONSES,
    _spec("entropy, nats a token", "entropy"),
    _spec("spread of the proxy reward (std)", "proxy_std"),
    _spec("disagreement of the reward models (std)", "disagreement"),
    _spec("share clipped", "clip_fraction"),
    _spec("mean ratio to the sampling policy", "ratio"),
    _spec("critic: explained variance", "explained_variance"),
    _spec("mean size of an advantage", "advantage_abs"),
    *_PAIRS,
    _spec("loss on pretraining text, nats a token", "ptx_loss"),
    _spec("distinct-2 (different token pairs)", "distinct_2"),
    _spec("different tokens in a batch", "unique_tokens"),
    _spec("sampler against trainer, nats a token", "logprob_gap", (0.0, LARGEST_GAP)),
    _spec("sampler against trainer, one token", {"logprob_gap_p99": "99th percentile", "logprob_gap_max": "maximum"}),
]
_PANELS: Mapping[str, Sequence[Spec]] = {
    "sft": [_spec("loss, nats a token", _over("loss", "heldout_loss")), _LEARNING_RATE],
    "reward": [
        _spec("loss, nats a pair", {"loss": "training", "heldout_loss": "held out (Bradley-Terry)"}),
        _spec("share of pairs ranked as people do", _over("accuracy", "heldout_accuracy")),
        _spec("mean score", _over("reward_mean", "heldout_reward_mean")),
        _spec("spread of the held-out scores (std)", "heldout_reward_std"),
        _spec("members' held-out disagreement (std)", "heldout_disagreement"),
        _LEARNING_RATE,
    ],
    "ppo": _ONLINE,
    "group": _ONLINE,
    "preference": [
        _spec("loss", _over("loss", "heldout_loss")),
        *_PAIRS,
        *_PROXY,
        _OWN_SAMPLES,
        _spec("held-out KL to the start, nats", "heldout_kl"),
        *_RESPONSES,
        _spec("KTO's reference point, nats", "reference_point"),
        _LEARNING_RATE,
    ],
}


def stage_panels(
    stage: str, rows: Sequence[Row], judges: Mapping[str, str] = _USUAL_JUDGES
) -> tuple[list[Panel], list[Panel]]:
    """The diagrams of a stage, and those of everything else that it logged.

    Args:
        stage: its name in the log.
        rows: its rows.
        judges: what each judge's diagram is called, by the name of its scores.

    Returns:
        (main, other). A stage that this file does not know has all its figures in ``main``.

    Example:
        >>> main, other = stage_panels("sft", [{"stage": "sft", "step": 1, "sft/loss": 2.0, "sft/skipped": 0.0}])
        >>> [panel.title for panel in main], [panel.title for panel in other]
        (['loss, nats a token'], ['skipped'])
    """
    known = _PANELS.get(stage, [])
    if stage in COMPARED_STAGES:  # beside the proxy reward, which the judges are to be compared with
        place = next(i for i, spec in enumerate(known) if "heldout_proxy" in spec[1]) + 1
        judged = [_spec(f"{title}, held out", f"heldout_{name}") for name, title in judges.items()]
        known = [*known[:place], *judged, *known[place:]]
    known = [*known, *_of_tasks(stage, rows)]
    points = {
        name: found
        for name in dict.fromkeys(name for row in rows for name in row if name not in ("stage", "step"))
        if (found := series(rows, name)) and not _single_model(name, found)
    }
    main = [
        Panel(title, [Line(label, points.get(f"{stage}/{name}", [])) for name, label in lines.items()], band)
        for title, lines, band in known
    ]
    drawn = {f"{stage}/{name}" for _, lines, _ in known for name in lines}
    other = [
        Panel(name.removeprefix(f"{stage}/"), [Line(name, found)])
        for name, found in points.items()
        if name not in drawn
    ]
    main = [panel for panel in main if any(line.points for line in panel.lines)]
    return (main, other) if known else (other, [])


# By a figure of a task, what its diagram is called.
_TASK_FIGURES = {
    "perplexity": "perplexity, a token",
    "word_perplexity": "perplexity, a word",
    "bits_per_byte": "bits a byte",
    "accuracy": "questions right",
    "accuracy_by_length": "questions right, by log-likelihood a character",
    "exact_match": "answered exactly",
}


def _of_tasks(stage: str, rows: Sequence[Row]) -> list[Spec]:
    """Diagrams of the tasks that evaluations measured, ``STAGE/tasks/TASK/FIGURE`` in the log."""
    begins = f"{stage}/tasks/"
    names = dict.fromkeys(name.removeprefix(begins) for row in rows for name in row if name.startswith(begins))
    return [
        _spec(f"{task}: {_TASK_FIGURES.get(figure, figure)}", f"tasks/{name}")
        for name in names
        for task, _, figure in (name.partition("/"),)
    ]


def moving(panels: Sequence[Panel]) -> tuple[list[Panel], list[str]]:
    """Part the diagrams that show something from those of one value.

    Args:
        panels: any.

    Returns:
        The panels with a line that goes up or down, and a text for each of the others: what it is, and its value.

    Example:
        >>> still = Panel("beta", [Line("beta", [(1, 0.1), (2, 0.1)])])
        >>> moving([still, Panel("loss", [Line("loss", [(1, 2.0), (2, 1.0)])])])[1]
        ['beta 0.1']
    """
    shown, still = [], []
    for panel in panels:
        values = [value for line in panel.lines for _, value in line.points if math.isfinite(value)]
        lines = [[value for _, value in line.points if math.isfinite(value)] for line in panel.lines]
        if panel.limits is not None and values and max(values) < _FLAT * panel.limits[1]:
            still.append(f"{panel.title} at most {max(values):.2g} (limit {panel.limits[1]:g})")
        elif any(len(line) > 1 and min(line) < max(line) for line in lines):
            shown.append(panel)
        elif values:
            known = dict.fromkeys(f"{value:.4g}" for value in values)
            still.append(f"{panel.title} {' and '.join(known)}")
    return shown, still


def _single_model(name: str, points: Sequence[tuple[int, float]]) -> bool:
    """Whether this is the disagreement of a reward model with itself: always 0, and nothing to look at."""
    return name.endswith("disagreement") and not any(value for _, value in points)
