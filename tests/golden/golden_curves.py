"""Learning curves of PPO, ours and TRL 0.23's, 30 iterations, several seeds: does each lie in the other's interval?

    python tests/golden/golden_curves.py FOLDER    # goes on where it stopped

Both sides start from the same policy, critic and reference, ask the same prompts, and are scored by the same reward
model; each samples, shuffles and updates by itself. ``curves.json`` beside this file is what it found, and
docs/parity.md has the table. ``verdict`` says what "in the interval" means.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import golden_case as case
import jax
import numpy as np
import trl_environment

from rlhf_jax import parallel
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import KLConfig, LoadedModel, OnlineTrainer, PPOConfig, PPOLossConfig

SEEDS, ITERATIONS = 5, 30
COPIES, RESPONSE, EPOCHS, MINIBATCHES = 8, 8, 4, 2
KL, RATE = 0.05, 3e-3
HERE = Path(__file__).parent
STORED = HERE / "curves.json"
RESAMPLES = 10_000


def config() -> PPOConfig:
    """Return our side's settings."""
    optimizer = case.constant(RATE)
    return PPOConfig(
        policy="unused",
        reward_model="unused",
        prompts=COPIES * len(case.PROMPTS),
        iterations=ITERATIONS,
        epochs=EPOCHS,
        minibatches=MINIBATCHES,
        sampling=SamplingConfig(max_new_tokens=RESPONSE),
        shaping=case.UNSHAPED,
        kl=KLConfig(kind="fixed", coef=KL),
        loss=PPOLossConfig(),
        policy_optimizer=optimizer,
        critic_optimizer=optimizer,
    )


def start() -> tuple[LoadedModel, LoadedModel]:
    """Make the policy and the reward model, whose scores of random text differ by about 1."""
    reward = case.model(case.LLAMA, seed=2, scalar_head=True)
    head = {"kernel": 4 * reward.params["head"]["kernel"]}
    return case.model(case.LLAMA, seed=0), LoadedModel(reward.config, {**reward.params, "head": head})


def ours(folder: Path) -> None:
    """Run every seed that is not there yet, and write the case for the other side.

    One trainer serves all seeds: what is drawn follows from the step, so each has steps of its own.
    """
    policy, reward = start()
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1])
    own = case.tokenizer()
    asked = case.prompts(own, case.PROMPTS * COPIES)
    trainer = OnlineTrainer(config(), policy=policy, tokenizer=own, reward=reward, mesh=mesh)
    for seed in range(SEEDS):
        out = folder / f"ours-{seed}.json"
        if out.exists():
            continue
        state, rows = trainer.init(), []
        for step in range(seed * ITERATIONS, (seed + 1) * ITERATIONS):
            sampled = trainer.collect(state, asked, step)
            batch, info = trainer.prepare(state, sampled, asked)
            if not (folder / "case.json").exists():
                write_case(folder, trainer, state, sampled, policy, reward)
            state, _ = trainer.update(state, batch, step)
            rows.append(
                {name: float(info[of][0] / info[of][1]) for name, of in (("score", "proxy_mean"), ("kl", "kl"))}
            )
        out.write_text(json.dumps(rows))
        print(f"ours, seed {seed}: {rows[0]} ... {rows[-1]}", flush=True)


def write_case(folder: Path, trainer: Any, state: Any, sampled: Any, policy: LoadedModel, reward: LoadedModel) -> None:
    """Write models, prompts and settings for the other side."""
    own, loss = case.tokenizer(), PPOLossConfig()
    case.write(
        folder,
        sampled,
        np.zeros((0, 0), int),
        {
            "policy": (policy.config, policy.params),
            "reference": (policy.config, policy.params),
            "critic": (reward.config, state.train.params["critic"]),
            "reward": (reward.config, reward.params),
        },
        own,
        response_length=RESPONSE,
        stop_token_id=own.eos_id,
        temperature=1.0,
        num_ppo_epochs=EPOCHS,
        num_mini_batches=MINIBATCHES,
        kl_coef=KL,
        kl_estimator="k1",
        missing_eos_penalty=None,
        gamma=trainer.config.gamma,
        lam=trainer.config.gae_lambda,
        vf_coef=loss.value_coef,
        cliprange=loss.clip_low,
        cliprange_value=loss.value_clip,
        learning_rate=RATE,
        adam_beta2=trainer.config.policy_optimizer.b2,
        adam_epsilon=trainer.config.policy_optimizer.eps,
    )
    whole = json.loads((folder / "case.json").read_text())
    (folder / "case.json").write_text(json.dumps({**whole, "seeds": list(range(SEEDS)), "iterations": ITERATIONS}))


def verdict(curves: dict[str, np.ndarray], *, seed: int = 0) -> dict[str, Any]:
    """Hold the mean curve of each side against the interval of the other's.

    The interval of a side is simultaneous over all iterations: the bootstrap over its seeds gives the mean's standard
    error at each iteration, and the 95th percentile, over resamples, of the largest deviation in those units is the
    interval's half width in them. Pointwise intervals, which 5% leave by chance, are counted beside it.

    Args:
        curves: [seeds, iterations] by side, "ours" and "trl".
        seed: of the bootstrap.

    Returns:
        By side whose interval it is: ``mean``, ``half`` (of the simultaneous interval) and ``pointwise`` half width,
        each [iterations], and of the *other* side's mean how many iterations lie ``outside`` and ``outside_pointwise``.
    """
    rng, found = np.random.default_rng(seed), {}
    for side, x in curves.items():
        drawn = x[rng.integers(0, len(x), size=(RESAMPLES, len(x)))].mean(1)  # [resamples, iterations]
        error = np.maximum(drawn.std(0), 1e-12)
        width = np.quantile((np.abs(drawn - x.mean(0)) / error).max(1), 0.95)
        found[side] = {"mean": x.mean(0), "half": width * error, "pointwise": 1.96 * error}
    for side, other in (("ours", "trl"), ("trl", "ours")):
        off = np.abs(found[other]["mean"] - found[side]["mean"])
        found[side]["outside"] = int((off > found[side]["half"]).sum())
        found[side]["outside_pointwise"] = int((off > found[side]["pointwise"]).sum())
    return found


def permutation(curves: dict[str, np.ndarray]) -> float:
    """Test whether runs of both sides are drawn from the same curves, at all iterations together.

    Of all ways to deal the runs to two sides, the share whose largest t statistic over the iterations (Welch's, of the
    difference of means) is at least that of the true sides. Exact for few seeds, where a bootstrap is not.

    Args:
        curves: [seeds, iterations] by side, "ours" and "trl".
    """
    x, n = np.concatenate([curves["ours"], curves["trl"]]), len(curves["ours"])

    def largest(chosen: tuple[int, ...]) -> float:
        a, b = x[list(chosen)], np.delete(x, chosen, axis=0)
        error = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
        return float((np.abs(a.mean(0) - b.mean(0)) / np.where(error > 0, error, np.inf)).max())

    dealt = np.array([largest(chosen) for chosen in itertools.combinations(range(len(x)), n)])
    return float((dealt >= dealt[0] - 1e-12).mean())


def stored() -> dict[str, dict[str, np.ndarray]]:
    """Read ``curves.json``: [seeds, iterations] by figure and side."""
    read = json.loads(STORED.read_text())
    return {figure: {side: np.array(x) for side, x in read[figure].items()} for figure in ("score", "kl")}


def table() -> str:
    """Make the rows for docs/parity.md of what is stored."""
    lines = ["| iteration | score, ours | score, TRL | KL, ours | KL, TRL |", "|---|---|---|---|---|"]
    found = {figure: verdict(x) for figure, x in stored().items()}
    for i in (0, 4, 9, 14, 19, 24, 29):
        cells = [
            f"{found[figure][side]['mean'][i]:.2f} ± {found[figure][side]['half'][i]:.2f}"
            for figure in found
            for side in ("ours", "trl")
        ]
        lines.append(f"| {i + 1} | {' | '.join(cells)} |")
    return "\n".join(lines)


def in_words() -> str:
    """Say how many means lie outside the other side's interval."""
    said = []
    for figure, x in stored().items():
        found = verdict(x)
        said += [
            f"{figure}: {side}'s interval leaves out {found[side]['outside']} of the other's {ITERATIONS} means "
            f"({found[side]['outside_pointwise']} pointwise)"
            for side in found
        ]
        said.append(f"{figure}: p = {permutation(x):.2f} that both sides are alike")
    return "\n".join(said)


def main() -> None:
    """Run what is missing, both sides, and store the curves."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    ours(folder)
    python = trl_environment.python_of(trl_environment.folder())
    subprocess.run([str(python), str(HERE / "trl_curve.py"), str(folder)], check=True)
    rows = {
        side: [json.loads((folder / f"{side}-{s}.json").read_text()) for s in range(SEEDS)] for side in ("ours", "trl")
    }
    found = {
        figure: {side: [[round(row[figure], 5) for row in run] for run in x] for side, x in rows.items()}
        for figure in ("score", "kl")
    }
    STORED.write_text(json.dumps(found) + "\n")
    print(f"{table()}\n{in_words()}")


if __name__ == "__main__":
    main()
