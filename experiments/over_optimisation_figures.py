"""What ``over_optimisation.py`` reports: curves, their fits with intervals, tables and the figure.

Not an experiment itself.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlhf_jax import evaluation
from rlhf_jax.evaluation import FittedIntervals
from rlhf_jax.losses import best_of_n_kl

Figure = tuple[float, tuple[float, float]]
"""A figure with its 95% interval."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """What one proxy made of the policy, at growing distance; gold and proxy are in the standard deviations below."""

    name: str
    kind: Literal["best_of_n", "rl"]
    kl: np.ndarray  # [n], exact, or [n, P] as measured; nats a response
    gold: np.ndarray  # [n, P], above what the initial policy's response to the same prompt scores
    proxy: np.ndarray  # [n], likewise, over all prompts
    steps: tuple[int, ...]  # samples, or iterations

    @functools.cached_property
    def fitted(self) -> FittedIntervals | None:
        """The fit with its intervals; None where the curve has too few points."""
        try:
            return evaluation.over_optimisation_intervals(self.kl, self.gold, kind=self.kind, seed=0)
        except ValueError:
            return None

    @property
    def distance(self) -> np.ndarray:
        """Mean KL of every point, [n], nats a response."""
        return self.kl if self.kl.ndim == 1 else np.maximum(self.kl.mean(1), 0)

    def at(self, place: int) -> Figure:
        """Take the gold score of a point."""
        return float(self.gold[place].mean()), evaluation.bootstrap_mean(self.gold[place], seed=0)


def best_of_n_curve(row: Mapping[str, Any], name: str, unit: float) -> Curve:
    """Make a curve of what best-of-n left.

    Args:
        row: ``points`` of n, and gold and proxy of each prompt's best; ``proxy_scores`` of all samples.
        name: what the table calls it.
        unit: the standard deviation of gold over the initial policy's samples.
    """
    points = row["points"]
    gold, proxy = (np.array([p[which] for p in points], np.float64) for which in ("gold", "proxy"))
    steps = tuple(p["n"] for p in points)
    return Curve(
        name=name,
        kind="best_of_n",
        kl=np.asarray(best_of_n_kl(np.array(steps)), np.float64),
        gold=(gold - gold[0]) / unit,
        proxy=(proxy - proxy[0]).mean(1) / row["proxy_scores"]["std"],
        steps=steps,
    )


def rl_curve(row: Mapping[str, Any], name: str, unit: float, proxy_unit: float) -> Curve:
    """Make a curve of what PPO left.

    Args:
        row: ``points`` of an iteration with ``kl``, ``gold`` and ``proxy`` of every prompt; the first is the start.
        name: what the table calls it.
        unit: the standard deviation of gold over the initial policy's samples.
        proxy_unit: that of the proxy.
    """
    points = row["points"]
    kl, gold, proxy = (np.array([p[which] for p in points], np.float64) for which in ("kl", "gold", "proxy"))
    kl[0] = 0.0  # it is the initial policy, whatever rounding says
    return Curve(
        name=name,
        kind="rl",
        kl=kl,
        gold=(gold - gold[0]) / unit,
        proxy=(proxy - proxy[0]).mean(1) / proxy_unit,
        steps=tuple(p["iteration"] for p in points),
    )


def read_curves(out: Path, unit: float) -> list[Curve]:
    """Read what there is of an experiment's folder: best-of-n first, each in the order of the names."""
    chosen = {path.stem: _read(path) for path in sorted((out / "best_of_n").glob("*.json"))}
    curves = [best_of_n_curve(row, name, unit) for name, row in chosen.items()]
    for path in sorted((out / "ppo").glob("*.json")):
        trained = _read(path)
        proxy = chosen.get(path.stem) or chosen[f"{path.stem}-0"]
        curves.append(rl_curve(trained, path.stem, unit, proxy["proxy_scores"]["std"]))
    return curves


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def number(figure: Figure) -> str:
    """Write a figure with its interval."""
    return f"{figure[0]:.2f} ({figure[1][0]:.2f} to {figure[1][1]:.2f})"


def table(curves: Sequence[Curve], agreement: Mapping[str, Figure]) -> str:
    """Write the curves of one kind as Markdown.

    Args:
        curves: all of best-of-n, or all of PPO.
        agreement: for a proxy's name how often it orders two samples of a prompt as gold does.
    """
    lines = [
        "| proxy | orders samples as gold | gold, highest | at KL | gold, last | at KL | proxy, last "
        "| a | b | R2 | peak KL |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for curve in curves:
        top, fitted = int(curve.gold.mean(1).argmax()), curve.fitted
        right = agreement.get(curve.name)
        cells = [curve.name, "" if right is None else f"{right[0]:.1%} ({right[1][0]:.1%} to {right[1][1]:.1%})"]
        for place in (top, -1):
            cells += [number(curve.at(place)), f"{curve.distance[place]:.1f}"]
        cells.append(f"{curve.proxy[-1]:.2f}")
        if fitted is None:
            cells += ["", "", "", ""]
        else:
            fit = fitted.fit
            cells += [number((fit.a, fitted.a_ci)), number((fit.b, fitted.b_ci))]
            cells.append("" if fit.r2 is None else f"{fit.r2:.2f}")
            cells.append(_peak(fit.peak_kl, fitted.peak_kl_ci))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _peak(peak: float | None, interval: tuple[float, float]) -> str:
    low, high = ("none" if not np.isfinite(x) or x > 1e4 else f"{x:.1f}" for x in interval)
    return f"{'none' if peak is None or peak > 1e4 else f'{peak:.1f}'} ({low} to {high})"


def moved(curves: Sequence[Curve], pairs: Sequence[tuple[str, str]]) -> str:
    """Write as Markdown how a and b differ between two proxies; both curves' prompts are resampled alike.

    Args:
        curves: of both kinds.
        pairs: names of two proxies each; what is missing is left out.
    """
    lines = ["| from | to | by | change of a | change of b |", "|---|---|---|---|---|"]
    for kind in ("best_of_n", "rl"):
        fits = {c.name: c.fitted for c in curves if c.kind == kind and c.fitted is not None}
        for before, after in pairs:
            one, other = (fits.get(x) or fits.get(f"{x}-0") for x in (before, after))
            if one is None or other is None or one.draws.shape != other.draws.shape:
                continue
            change = other.draws - one.draws
            points = (other.fit.a - one.fit.a, other.fit.b - one.fit.b)
            ends = [tuple(np.percentile(change[:, i], [2.5, 97.5]).tolist()) for i in range(2)]
            cells = [number((x, end)) for x, end in zip(points, ends, strict=True)]
            lines.append(f"| {before} | {after} | {'PPO' if kind == 'rl' else 'best-of-n'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(curves: Sequence[Curve], path: Path) -> None:
    """Draw two panels, best-of-n and PPO: gold with its fit, and the proxy dashed, over the root of the KL.

    Args:
        curves: of both kinds; of an ensemble's members the first alone is drawn.
        path: the file to write.
    """
    from matplotlib.figure import Figure as Page

    trained = [c for c in curves if c.kind == "rl"]
    wanted = [c for c in curves if c.kind == "best_of_n" and not re.search(r"-[1-9]\d?$", c.name)]
    names = dict.fromkeys([*(c.name.removesuffix("-0") for c in wanted), *(c.name for c in trained)])
    colours = {name: f"C{i % 10}" for i, name in enumerate(names)}
    page = Page(figsize=(11, 4.8), layout="constrained")
    panels = page.subplots(1, 2)
    titles = ("best-of-n:  d (a - b d)", "PPO:  d (a - b log d)")
    for axes, drawn, title in zip(panels, (wanted, trained), titles, strict=True):
        for curve in drawn:
            name, d = curve.name.removesuffix("-0"), np.sqrt(curve.distance)
            colour = colours[name]
            mean, ends = curve.gold.mean(1), np.array([curve.at(i)[1] for i in range(len(d))])
            axes.errorbar(
                d, mean, yerr=abs(ends.T - mean), fmt="o", markersize=4, elinewidth=0.6, alpha=0.7, color=colour
            )
            axes.plot(d, curve.proxy, "--", linewidth=1, color=colour)
            if curve.fitted is None:
                axes.plot(d, mean, color=colour, linewidth=1, label=name)
            else:
                along = np.linspace(0, d.max(), 200)
                axes.plot(along, curve.fitted.fit.curve(along**2), color=colour, label=name)
        axes.axhline(0, color="0.8", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("d, root of the KL from the initial policy (nats a response)")
        axes.legend(fontsize=7)
    panels[0].set_ylabel("score above the initial policy's, in its sd\n(gold solid, proxy dashed)")
    page.savefig(path, dpi=150)
