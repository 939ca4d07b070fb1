"""The figures of the report, each a ``data:`` address of an SVG drawing, so that the page needs no other file.

Figures are drawn with matplotlib's objects, never with pyplot, which keeps state and may want a display.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]]
Curve = Callable[[np.ndarray], np.ndarray]

# The colours of Okabe & Ito (2008), which stay apart for colour-blind readers.
BLUE, ORANGE, GREEN, GREY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#767676", "#CC79A7"
_PARTS = (GREEN, ORANGE, BLUE, PURPLE, "#E69F00", "#56B4E9", "#C8C8C8")
# What the page is set in; a browser has no more of the fonts of the machine that drew.
TYPEFACE = "system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif"
_SCORERS = {"reward model": (BLUE, "o"), "ridge": (ORANGE, "s"), "VADER": (GREEN, "^"), "one person": (GREY, "D")}
# A longer curve is averaged down to this many points: more cannot be seen and makes the page heavy.
_MOST_POINTS = 400
# A curve of more points than this that goes up and down more than this many times its range is noise around a trend:
# it is drawn pale, with its running mean on top. A smooth curve (a schedule) is not, as the mean would bend it.
_NOISY_POINTS, _NOISY_TURNS = 60, 4.0
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "grid.color": "#ececec",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "rlhf_jax",
    "svg.fonttype": "none",  # text stays text, in the page's own typeface
    # names come from people's data: a dollar sign in one is no formula
    "text.parse_math": False,
    "axes.formatter.useoffset": False,
}


class Line(NamedTuple):
    """One curve: its label and its (step, value) points; few points are drawn with markers."""

    label: str
    points: Points


class Panel(NamedTuple):
    """One small diagram of curves over steps."""

    title: str
    lines: Sequence[Line]
    limits: tuple[float, float] | None = None  # a band to mark: the range the figure should stay in


def curves(panels: Sequence[Panel], *, columns: int = 3) -> str:
    """Small diagrams side by side, the same width each, steps below.

    Args:
        panels: at least one; a panel none of whose lines has a point is left out.
        columns: diagrams in a row.

    Returns:
        The address of the drawing; "" when no panel has a point.

    Example:
        >>> curves([Panel("loss", [Line("training", [(0, 2.0), (1, 1.0)])])])[:26]
        'data:image/svg+xml;base64,'
    """
    shown = [panel for panel in panels if any(len(line.points) for line in panel.lines)]
    if not shown:
        return ""
    rows = -(-len(shown) // columns)
    with _style():
        figure = _figure(10.2, 2.35 * rows)
        figure.get_layout_engine().set(hspace=0.08)
        for place, panel in enumerate(shown, 1):
            axes = figure.add_subplot(rows, columns, place)
            # Side by side, all leave room for a legend if one of them needs it, so that their curves stand level.
            first = (place - 1) // columns * columns
            _draw_panel(axes, panel, legend_above=any(len(near.lines) > 1 for near in shown[first : first + columns]))
            if place > len(shown) - columns:
                axes.set_xlabel("step")
        return _address(figure)


def reliability_diagram(rows: Sequence[Mapping[str, float]]) -> str:
    """How often people agree with the reward model's preference, against how sure it is; the diagonal is perfect.

    Args:
        rows: bins as ``evaluation.reliability`` gives them.

    Returns:
        The address of the drawing.

    Example:
        >>> bins = [{"low": 0.5, "high": 0.6, "confidence": 0.55, "observed": 0.5, "pairs": 10}]
        >>> reliability_diagram(bins).startswith("data:image/svg+xml")
        True
    """
    with _style():
        figure = _figure(4.6, 4.0)
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        axes.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1, linestyle="--", label="perfect")
        sizes = np.array([row["pairs"] for row in rows], float)
        axes.plot(
            [row["confidence"] for row in rows],
            [row["observed"] for row in rows],
            color=BLUE,
            marker="o",
            label="reward model",
        )
        axes.set_ylabel("share of votes with it")
        figure.legend(loc="outside upper left", ncols=2)
        widths = [row["high"] - row["low"] for row in rows]
        counts.bar([row["low"] for row in rows], sizes, width=widths, align="edge", color=BLUE, alpha=0.35)
        counts.set_ylabel("pairs")
        counts.set_xlabel("predicted probability of the preferred response")
        counts.set_xlim(0.5, 1)
        return _address(figure)


def accuracy_by_domain(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Pair accuracy of each scorer in each domain, with its interval where there is one.

    Args:
        found: {scorer: {domain: {"accuracy": a, "ci": [low, high] or None}}}; the scorers are named as in the page.

    Returns:
        The address of the drawing.

    Example:
        >>> found = {"ridge": {"movie": {"accuracy": 0.75, "ci": [0.7, 0.8]}}}
        >>> accuracy_by_domain(found).startswith("data:image/svg+xml")
        True
    """
    domains = list(dict.fromkeys(domain for by_domain in found.values() for domain in by_domain))
    with _style():
        figure = _figure(5.4, 0.62 * len(domains) + 1.4)
        axes = figure.add_subplot()
        gap = 0.8 / max(len(found), 1)
        for place, (scorer, by_domain) in enumerate(found.items()):
            colour, marker = _SCORERS.get(scorer, (PURPLE, "v"))
            for row, domain in enumerate(domains):
                cell = by_domain.get(domain)
                if cell is None or cell["accuracy"] is None:
                    continue
                y = row + (place - (len(found) - 1) / 2) * gap
                if cell["ci"]:
                    axes.plot(np.array(cell["ci"]) * 100, [y, y], color=colour, linewidth=1.6, alpha=0.55)
                axes.plot(100 * cell["accuracy"], y, marker, color=colour, markersize=5)
            axes.plot([], [], marker, color=colour, label=_short(scorer))
        axes.axvline(50, color=GREY, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(domains)), [_short(domain, 32) for domain in domains])
        axes.set_ylim(len(domains) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("held-out pairs ranked as the majority does, % (dashed: chance)")
        figure.legend(loc="outside upper center", ncols=len(found))
        return _address(figure)


def over_optimisation(
    points: Sequence[tuple[float, float | None, float]],
    fitted: Curve | None = None,
    titles: tuple[str, str] = ("proxy", "gold"),
) -> str:
    """Proxy and gold reward against sqrt(KL), and against one another, on held-out prompts.

    Args:
        points: (KL in nats a response, proxy, gold), one an evaluation, in the order of their steps. Where there is
            no proxy it is None in all of them, and gold is drawn alone.
        fitted: gold by KL of the form of Gao et al. (2022) for RL, to be drawn as far as the points go.
        titles: what proxy and gold are.

    Returns:
        The address of the drawing.

    Example:
        >>> over_optimisation([(0.0, 0.1, 0.0), (4.0, 1.0, 0.3)]).startswith("data:image/svg+xml")
        True
    """
    from matplotlib.ticker import MaxNLocator

    kl, gold = (np.array([point[i] for point in points], float) for i in (0, 2))
    proxy = np.array([value for _, value, _ in points if value is not None])
    # The estimate of a KL near zero may come out below it.
    distance = np.sqrt(np.maximum(kl, 0.0))
    drawn = [(proxy, _short(titles[0]), BLUE)] if len(proxy) else []
    drawn.append((gold, _short(titles[1]), GREEN))
    with _style():
        figure = _figure(10.2 if len(proxy) else 3.6, 2.9)
        places = figure.subplots(1, 3 if len(proxy) else 1, squeeze=False)[0]
        for axes, (values, title, colour) in zip(places, drawn, strict=False):
            axes.plot(distance, values, color=colour, linewidth=1, alpha=0.5)
            axes.scatter(distance, values, color=colour, s=18)
            axes.set_title(title)
            axes.set_xlabel("√KL to the starting policy, √nats")
        if fitted is not None:
            along = np.linspace(0, distance.max(), 100)
            label = "fitted d (a - b log d), d = √KL"
            middle = places[len(drawn) - 1]
            middle.plot(along, fitted(along**2), color=GREY, linewidth=1.2, linestyle="--", label=label)
            figure.legend(loc="outside upper center")
        if len(proxy):
            right = places[2]
            right.plot(proxy, gold, color=GREY, linewidth=1, alpha=0.6)
            right.scatter(proxy, gold, c=np.arange(len(proxy)), cmap="viridis", s=22, zorder=3)
            right.set_title("one against the other, dark to light")
            right.set_xlabel(_short(titles[0]))
            right.set_ylabel(_short(titles[1], 28))
        for axes in places:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        return _address(figure)


def shares(found: Mapping[str, Mapping[str, float]]) -> str:
    """One bar a row, from left to right what its parts take of it.

    Args:
        found: {row: {part: share}}; the same parts in every row, with shares that add up to 1.

    Returns:
        The address of the drawing.

    Example:
        >>> shares({"SFT": {"training steps": 0.75, "compilation": 0.25}}).startswith("data:image/svg+xml")
        True
    """
    names = list(found)
    with _style():
        figure = _figure(10.2, 0.42 * len(names) + 1.1)
        axes = figure.add_subplot()
        left = np.zeros(len(names))
        for part, colour in zip(next(iter(found.values())), _PARTS, strict=False):
            width = np.array([100 * found[name][part] for name in names])
            axes.barh(range(len(names)), width, left=left, height=0.62, color=colour, label=part)
            left += width
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
        axes.set_xlabel("% of the wall time")
        figure.legend(loc="outside upper center", ncols=len(next(iter(found.values()))))
        return _address(figure)


def share_bars(
    labels: Sequence[str],
    shares: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    line: float | None = None,
) -> str:
    """One bar a row with its 95% interval, and a dashed line to compare with; on a dark page its ink is light.

    Args:
        labels: what the rows are called.
        shares: from 0 to 1.
        intervals: the two ends of each; None where there is none.
        line: the share to compare with.

    Returns:
        The address of the drawing.

    Example:
        >>> share_bars(["all"], [0.7], [(0.6, 0.8)], 0.5).startswith("data:image/svg+xml")
        True
    """
    with _style():
        figure = _figure(7.2, 0.34 * len(labels) + 0.75)
        axes = figure.add_subplot()
        axes.barh(range(len(labels)), [100 * share for share in shares], height=0.6, color=BLUE)
        for place, ends in enumerate(intervals):
            if ends is not None:
                axes.plot(
                    [100 * end for end in ends], [place, place], color=ORANGE, linewidth=2.2, solid_capstyle="butt"
                )
        if line is not None:
            axes.axvline(100 * line, color=GREY, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
        axes.set_xlabel("%, orange: 95% interval")
        return _address(figure, dark=_DARK)


def _draw_panel(axes: Any, panel: Panel, *, legend_above: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    if panel.limits is not None:
        axes.axhspan(*panel.limits, color=GREEN, alpha=0.08, linewidth=0)
    # A line has its colour by its place: held-out figures are orange even where nothing else was logged.
    for line, colour in zip(panel.lines, (BLUE, ORANGE, GREEN, GREY, PURPLE), strict=False):
        if not len(line.points):
            continue
        x, y = _thinned(line.points)
        if _noisy(y):
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.3)
            # the mean of the very first and last points is of too few to be drawn as a trend
            ends = len(y) // 60
            x, y = x[ends:-ends], _running_mean(y, len(y) // 30)[ends:-ends]
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, y, color=colour, linewidth=1.3, marker=marker, markersize=3, label=_short(line.label))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no power of ten in a corner, where a legend stands
    if len(panel.lines) > 1:  # between title and curves, and never on these
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=len(panel.lines), borderaxespad=0.2)
    axes.set_title(_short(panel.title), pad=20 if legend_above else None)


def _short(title: str, longest: int = 46) -> str:
    """As much of a name as there is room for, its end; control characters are left out."""
    shown = "".join(letter for letter in title if letter.isprintable())
    return shown if len(shown) <= longest else f"...{shown[3 - longest :]}"


def _thinned(points: Points) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.array(column, float) for column in zip(*points, strict=True))
    if len(x) <= _MOST_POINTS:
        return x, y
    # Equal parts (but the last): a mean over more points is less noisy, and unequal parts would look like a change.
    starts = np.arange(0, len(x), -(-len(x) // _MOST_POINTS))
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _noisy(values: np.ndarray) -> bool:
    return len(values) > _NOISY_POINTS and bool(np.abs(np.diff(values)).sum() > _NOISY_TURNS * np.ptp(values))


def _running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of ``reach`` values to either side; fewer near the ends, as many on both sides."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    sides = np.minimum(reach, np.minimum(at, at[::-1]))
    return (sums[at + sides + 1] - sums[at - sides]) / (2 * sides + 1)


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


# A drawing follows the page's colours by itself; matplotlib writes its own into every element.
_DARK = b"""<style>@media (prefers-color-scheme: dark) {
 text { fill: #c9ccd1 !important; } path[style*="#ececec"] { stroke: #33373d !important; }
 path[style*="#999999"], use[style*="#444444"] { stroke: #8b9098 !important; } }</style>"""


def _address(figure: Any, *, dark: bytes = b"") -> str:
    drawing = io.BytesIO()
    # Without a date the same figures give the same bytes.
    figure.savefig(drawing, format="svg", metadata={"Date": None}, transparent=bool(dark))
    svg = re.sub(rb"'DejaVu Sans'[^;\"]*", TYPEFACE.encode(), drawing.getvalue())
    svg = svg.replace(b"<defs>", dark + b"<defs>", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
