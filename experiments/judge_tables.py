"""The tables and the figure of ``judges.py``, from what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.files import atomic_text

Figures = Mapping[str, Mapping[str, Any]]

_KINDS = {
    "held-out": "Held-out sentences, four pairs each",
    "all": "All sentences; the ridge regression is fitted on four fifths, and votes on the fifth that it has not seen",
    "same": "Held-out sentences, one pair each; who judged fewer pairs judged the first of the same",
}


def write(found: Mapping[str, Any], out: Path) -> None:
    """Write table.md and figure.png."""
    parts = [f"{title}\n\n{agreement(found[kind])}" for kind, title in _KINDS.items() if kind in found]
    parts += [
        f"What sways them, on the same pairs\n\n{swayed(found['same'])}",
        panel(found["panel"]),
        own(found["own"]),
    ]
    with atomic_text(out / "table.md") as file:
        file.write("\n\n".join(parts) + "\n")
    figure(found["same"], out / "figure.png")


def agreement(judges: Figures) -> str:
    """Agreement with people and calibration, a row for each judge."""
    rows = []
    for name, f in judges.items():
        rows.append(
            [
                name,
                f"{f['n']:,}",
                f"{f['ratings']:,}",
                _share(f["accuracy"], f["accuracy_ci"]),
                _share(f["difference"], f["difference_ci"], "+.1%"),
                _number(f["ece"], f["ece_ci"]),
                _number(f["brier"], f["brier_ci"]),
                f"{f['abstained']:.1%}",
            ]
        )
    one = next(iter(judges.values()))
    rows.append(["one person", f"{one['n']:,}", f"{one['ratings']:,}", f"{one['person']:.1%}", "", "", "", ""])
    rows.append(["always one half", "", "", "50.0%", "", "", f"{one['brier_even']:.3f}", ""])
    head = ["judge", "pairs", "ratings", "agrees with the majority", "less one person", "ECE", "Brier", "abstained"]
    return _table(head, rows)


def swayed(judges: Figures) -> str:
    """Length and place."""
    rows = []
    for name, f in judges.items():
        rows.append(
            [
                name,
                _share(f["longer"], None),
                _share(f["longer_excess"], f["longer_excess_ci"], "+.1%"),
                _share(f["at_equal_length"], f["at_equal_length_ci"]),
                _share(f["first"], f["first_ci"]),
                _share(f["consistent"], f["consistent_ci"]),
                _share(f["one_order"], f["one_order_ci"]),
            ]
        )
    head = ["judge", "prefers the longer", "less people", "accuracy at equal length", "vote for the first shown"]
    return _table([*head, "both orders agree", "one order alone is right"], rows)


def panel(found: Mapping[str, Any]) -> str:
    """Judges and people in one table of Dawid and Skene."""
    rows = [
        [
            name,
            _share(f["accuracy"], f["accuracy_ci"]),
            _share(f["right_by_judges"], None),
            _share(f["right_by_all"], None),
            f"{f['weight']:.2f}",
        ]
        for name, f in found["raters"].items()
    ]
    head = ["rater", "right", "estimated from judges alone", "estimated with five people", "weight"]
    groups = [[name, _share(f["accuracy"], f["accuracy_ci"])] for name, f in found["consensus"].items()]
    alphas = f"Krippendorff's alpha: people {found['alpha_people']:.2f}, with the judges {found['alpha']:.2f}"
    return (
        f"Judges and five people in one table of {found['pairs']} pairs; right is by the other people's majority\n\n"
        f"{_table(head, rows)}\n\n{_table(['consensus of', 'right'], groups)}\n\n{alphas}"
    )


def own(found: Mapping[str, Figures]) -> str:
    """How each judge likes each policy's samples."""
    rows = []
    for name, policies in found.items():
        for policy, f in policies.items():
            if f is None:
                rows.append([name, policy, "0", "-", "-", "-", "-"])
                continue
            equal = _share(f["at_equal_gold"], f["at_equal_gold_ci"])
            excess = _share(f["excess"], f["excess_ci"], "+.1%")
            rows.append([name, policy, f"{f['n']:,}", f"{f['win_rate']:.1%}", f"{f['gold_win_rate']:.1%}"])
            rows[-1] += [excess, equal]
    head = ["judge", "samples of", "n", "win rate", "by gold", "difference", "where gold sees none"]
    return f"Samples against those of the SFT policy\n\n{_table(head, rows)}"


def figure(judges: Figures, path: Path) -> None:
    """Agreement beside one person, calibration, and what sways each judge."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(13, 4.5), layout="constrained")
    agree, calibrated, sways = page.subplots(1, 3)
    names = list(judges)
    for i, name in enumerate(names):
        f, color = judges[name], f"C{i}"
        if f["accuracy"] is None:
            continue
        low, high = f["accuracy_ci"]
        error = [[max(0.0, f["accuracy"] - low)], [max(0.0, high - f["accuracy"])]]
        agree.errorbar(f["accuracy"], -i, xerr=error, fmt="o", color=color, capsize=3)
        bins = [b for b in f["reliability"] if b["pairs"] >= 20]
        calibrated.plot([b["confidence"] for b in bins], [b["observed"] for b in bins], "o-", color=color, label=name)
        if f["longer_excess"] is not None:
            low, high = f["longer_excess_ci"]
            error = [[max(0.0, f["longer_excess"] - low)], [max(0.0, high - f["longer_excess"])]]
            sways.errorbar(f["longer_excess"], -i + 0.12, xerr=error, fmt="s", color=color, capsize=3)
        if f["first"] is not None:
            low, high = (x - 0.5 for x in f["first_ci"])
            error = [[max(0.0, f["first"] - 0.5 - low)], [max(0.0, high - f["first"] + 0.5)]]
            sways.errorbar(f["first"] - 0.5, -i - 0.12, xerr=error, fmt="^", color=color, capsize=3)
    agree.axvline(judges[names[0]]["person"], color="0.5", linestyle="--", label="one person")
    agree.axvline(0.5, color="0.8")
    agree.legend()
    agree.set_yticks([-i for i in range(len(names))], names)
    agree.set(title="agrees with the majority of people")
    calibrated.plot([0.5, 1], [0.5, 1], color="0.7")
    calibrated.set(title="calibration", xlabel="vote for the side it prefers", ylabel="share of people on that side")
    calibrated.legend(fontsize=8)
    sways.axvline(0, color="0.7")
    sways.set_yticks([-i for i in range(len(names))], names)
    sways.set(title="squares: the longer one, more than people\ntriangles: the first shown, more than one half")
    page.savefig(path, dpi=130)


def _share(value: float | None, interval: Sequence[float] | None, form: str = ".1%") -> str:
    if value is None:
        return "-"
    return f"{value:{form}}" + ("" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})")


def _number(value: float | None, interval: Sequence[float] | None) -> str:
    return _share(value, interval, ".3f")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
