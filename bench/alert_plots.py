"""Pictures of ``bench.alerts``: false alerts beside their budget, and how soon shifts are told.

python -m bench.alert_plots        # from build/bench-alerts.json, into build/
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

NO_SHIFT = "no shift, "
DETECTORS = "median delay of detectors alone"
TOLD = "median delay of CUSUM that is told the size"
# As ``bench.alerts`` has them; it is not imported, since it takes River with it.
SIZES = (5, 10, 15, 20, 30, 50)
LATEST = 100.0
"""Delays beyond it, and shifts that are never told, are drawn here."""


def draw(figures: Path) -> None:
    """Draw the figures of a whole run, into the folder in which they are."""
    found = json.loads(figures.read_text())
    for name, figure in (("false", false_alerts(found)), ("delay", delays(found))):
        path = figures.parent / f"alerts-{name}.png"
        figure.savefig(path, dpi=110)
        print(path)


def false_alerts(found: dict[str, Any]) -> Figure:
    """Draw alerts per series and 90 points without a shift, with 95 % intervals."""
    rows = {
        name.removeprefix(NO_SHIFT): value
        for name, value in found.items()
        if name.startswith(NO_SHIFT) and isinstance(value, list)
    }
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows), 0, -1)
    rates, lows, highs = zip(*rows.values(), strict=True)
    errors = [
        [rate - low for rate, low in zip(rates, lows, strict=True)],
        [high - rate for rate, high in zip(rates, highs, strict=True)],
    ]
    axes.errorbar(rates, places, xerr=errors, fmt="o", capsize=3)
    axes.axvline(1.0, color="tab:red", linestyle="--", label="budget")
    axes.set(xlim=(0.0, 1.1), xlabel="false alerts of a series in 90 points, 95 % interval")
    axes.set_yticks(list(places), list(rows))
    axes.legend(loc="lower left")
    return figure


def delays(found: dict[str, Any]) -> Figure:
    """Draw median delays by size of shift: of alerts by kind of noise, and of detectors alone."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    whole, alone = figure.subplots(1, 2, sharey=True)
    kinds = [name.split(", ", 1)[1] for name in found if name.startswith(f"shift {SIZES[0]}%, ")]
    for kind in kinds:
        row = [found[f"shift {size}%, {kind}"][2] for size in SIZES]
        whole.plot(SIZES, [min(x, LATEST) for x in row], marker="o", label=kind)
    whole.set(title="from points to the alert", ylabel="median delay, points")
    curves = found[DETECTORS] | {"CUSUM, told the size": found[TOLD]}
    for name, row in curves.items():
        told = {} if name in found[DETECTORS] else {"color": "grey", "linestyle": ":"}
        alone.plot(SIZES, [min(x, LATEST) for x in row], marker="o", label=name, **told)
    bound = [min(x * 2 / 3, LATEST) for x in found[DETECTORS]["ADWIN"]]
    alone.plot(SIZES, bound, "--", color="tab:red", label="two thirds of ADWIN's, the bound")
    alone.set(title="detectors alone, one false alarm in 90 points")
    for axes in (whole, alone):
        axes.set(xscale="log", yscale="log", xlabel="shift, %")
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.set_yticks([1, 3, 10, 30, LATEST], ["1", "3", "10", "30", "100 or never"])
        axes.legend()
    return figure
