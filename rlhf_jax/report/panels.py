"""Which logged figures stand in which diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_jax.report.plots import Line, Panel
from rlhf_jax.report.run_folder import Row, series

# stage -> (title, {logged name: label in the diagram}, band the figure should stay in)
_PANELS: Mapping[str, Sequence[tuple[str, Mapping[str, str], tuple[float, float] | None]]] = {
    "sft": [
        ("loss, nats a token", {"sft/loss": "training", "sft/heldout_loss": "held out"}, None),
        ("learning rate", {"sft/learning_rate": "learning rate"}, None),
    ],
    "reward": [
        ("Bradley-Terry loss, nats a pair", {"reward/loss": "training", "reward/heldout_loss": "held out"}, None),
        (
            "share of pairs ranked as people do",
            {"reward/accuracy": "training", "reward/heldout_accuracy": "held out"},
            None,
        ),
        ("learning rate", {"reward/learning_rate": "learning rate"}, None),
    ],
    "ppo": [
        ("proxy reward", {"ppo/proxy_mean": "training prompts", "ppo/heldout_proxy": "held-out prompts"}, None),
        ("gold score, held-out prompts", {"ppo/heldout_gold": "ridge judge"}, None),
        ("VADER score, held-out prompts", {"ppo/heldout_vader": "VADER"}, None),
        ("KL to SFT, nats a response", {"ppo/kl": "training prompts", "ppo/heldout_kl": "held-out prompts"}, None),
        ("KL to SFT, nats a token", {"ppo/kl_per_token": "KL"}, None),
        ("KL coefficient β", {"ppo/kl_coef": "β"}, None),
        ("response length, tokens", {"ppo/length": "length"}, None),
        ("share of responses that end", {"ppo/eos_rate": "EOS rate"}, None),
        ("entropy, nats a token", {"ppo/entropy": "entropy"}, None),
        ("spread of the proxy reward (std)", {"ppo/proxy_std": "std"}, None),
        ("share of tokens clipped", {"ppo/clip_fraction": "clipped"}, None),
        ("mean ratio to the sampling policy", {"ppo/ratio": "ratio"}, None),
        ("critic: explained variance", {"ppo/explained_variance": "explained variance"}, None),
        ("distinct-2 (different token pairs)", {"ppo/distinct_2": "distinct-2"}, None),
        ("different tokens in a batch", {"ppo/unique_tokens": "unique tokens"}, None),
        ("sampler - trainer log-prob, nats", {"ppo/logprob_gap": "gap"}, (-0.05, 0.05)),
    ],
}


def stage_panels(stage: str, rows: Sequence[Row]) -> tuple[list[Panel], list[Panel]]:
    """The diagrams of a stage, and those of everything else that it logged.

    Args:
        stage: its name in the log.
        rows: its rows.

    Returns:
        (main, other). A stage that this file does not know has all its figures in ``main``.

    Example:
        >>> main, other = stage_panels("sft", [{"stage": "sft", "step": 1, "sft/loss": 2.0, "sft/skipped": 0.0}])
        >>> [panel.title for panel in main], [panel.title for panel in other]
        (['loss, nats a token'], ['skipped'])
    """
    known = _PANELS.get(stage, [])
    main = [
        Panel(title, [Line(label, series(rows, name)) for name, label in lines.items()], band)
        for title, lines, band in known
    ]
    drawn = {name for _, lines, _ in known for name in lines}
    names = dict.fromkeys(name for row in rows for name in row if name not in drawn | {"stage", "step"})
    other = [Panel(name.removeprefix(f"{stage}/"), [Line(name, series(rows, name))]) for name in names]
    main, other = ([panel for panel in panels if any(line.points for line in panel.lines)] for panels in (main, other))
    return (main, other) if known else (other, [])
