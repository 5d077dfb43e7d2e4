"""Pictures of ``bench.clv``: predicted against realised, by week and by frequency."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

STYLES: dict[str, dict[str, Any]] = {
    "realised": {"color": "black", "linewidth": 2.0},
    "valuetide": {"color": "tab:blue", "linewidth": 1.8},
    "batch MBG/NBD": {"color": "tab:orange", "linewidth": 1.2, "linestyle": "--"},
    "batch Pareto/NBD": {"color": "tab:green", "linewidth": 1.2, "linestyle": ":"},
    "batch refit each week": {"color": "tab:orange", "linewidth": 1.2, "linestyle": "--"},
}


@dataclass(frozen=True)
class Curves:
    """What is drawn of a data set: by name of who says so, numbers in order.

    Attributes
    ----------
    by_week
        Orders since the freeze, summed up.
    revenues
        Of the 13 weeks after each week.
    by_frequency
        Mean orders of customers with 0, 1, ... repeat purchases, the last with so many or more.
    """

    name: str
    currency: str
    by_week: dict[str, list[float]]
    revenues: dict[str, list[float]]
    by_frequency: dict[str, list[float]]


def draw(curves: Sequence[Curves], folder: Path) -> list[Path]:
    """Draw the two pictures; gives where they are."""
    return [
        _by_week(curves, folder / "clv-weeks.png"),
        _by_frequency(curves, folder / "clv-frequency.png"),
    ]


def _by_week(curves: Sequence[Curves], path: Path) -> Path:
    figure = Figure(figsize=(5.0 * len(curves), 8.0), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False)
    for nth, one in enumerate(curves):
        above, below = axes[0][nth], axes[1][nth]
        for name, numbers in one.by_week.items():
            above.plot(range(1, len(numbers) + 1), numbers, label=name, **STYLES[name])
        above.set(title=one.name, xlabel="weeks since the freeze", ylabel="orders, summed up")
        for name, numbers in one.revenues.items():
            weeks = range(13, 13 + len(numbers))
            below.plot(weeks, numbers, label=name, **STYLES[name])
        below.set(
            xlabel="week of the forecast", ylabel=f"revenue of the next 13 weeks, {one.currency}"
        )
        for axis in (above, below):
            axis.set_ylim(bottom=0)
            axis.legend()
    return _save(figure, path)


def _by_frequency(curves: Sequence[Curves], path: Path) -> Path:
    figure = Figure(figsize=(5.0 * len(curves), 4.0), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)
    for nth, one in enumerate(curves):
        axis = axes[0][nth]
        last = len(one.by_frequency["realised"]) - 1
        labels = [*map(str, range(last)), f"{last}+"]
        for name, numbers in one.by_frequency.items():
            axis.plot(labels, numbers, marker="o", markersize=3, label=name, **STYLES[name])
        axis.set(
            title=one.name,
            xlabel="repeat purchases until the freeze",
            ylabel="orders of a customer held out",
        )
        axis.set_ylim(bottom=0)
        axis.legend()
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path
