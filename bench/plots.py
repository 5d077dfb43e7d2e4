"""Plots of what the other measurements left in build/, into build/.

    python -m bench.speed --only plots

``bench-peers.png``: CPU per event of worker and peers. ``bench-stages.png``: the worker's by stage.
``bench-latency.png``: latency distributions. ``bench-customers.png``: cost as customers grow. Each
is made where its figures are there. Runs in an environment of its own, with matplotlib.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

BUILD = Path("build")


def peers(axes: Any) -> bool:
    """Draw CPU per event of the worker and of each peer that was verified."""
    table = _read("bench-speed.json")
    found = {
        name: peer["cpu_us_per_event"]
        for name, peer in table.get("peers", {}).items()
        if peer["verified"]
    }
    if not found:
        return False
    found["worker, the whole job"] = table["worker"]["cpu_us_per_event"]
    names = sorted(found, key=found.__getitem__)
    axes.barh(names, [found[name] for name in names])
    axes.set(xscale="log", xlabel="us of CPU an event")
    return True


def stages(axes: Any) -> bool:
    """Draw the worker's CPU per event by stage."""
    found = _read("bench-speed.json").get("stages", {})
    names = list(found)[::-1]
    axes.barh(names, [found[name] for name in names])
    axes.set(xlabel="us of CPU an event")
    return bool(found)


def latency(axes: Any) -> bool:
    """Draw the share of events that take longer, by time."""
    files = sorted(BUILD.glob("latency-*.npy"))
    for file in files:
        ms = np.sort(np.load(file)) * 1e3
        _, rate, name = file.stem.split("-")
        longer = 1.0 - np.arange(len(ms)) / len(ms)
        axes.plot(ms, longer, label=f"{name}, {int(rate):,} events/s")
    axes.set(xscale="log", yscale="log", xlabel="ms", ylabel="share of events that take longer")
    if files:
        axes.legend()
    return bool(files)


def customers(axes: Any) -> bool:
    """Draw CPU per event by number of customers."""
    found = _read("bench-speed.json").get("customers", {})
    counts = sorted(map(int, found))
    axes.plot(counts, [found[str(n)]["cpu_us_per_event"] for n in counts], marker="o")
    axes.set(xscale="log", ylim=(0, None), xlabel="customers", ylabel="us of CPU an event")
    return bool(counts)


def _read(name: str) -> Any:
    file = BUILD / name
    return json.loads(file.read_text()) if file.exists() else {}


PLOTS: dict[str, Callable[[Any], bool]] = {
    "peers": peers,
    "stages": stages,
    "latency": latency,
    "customers": customers,
}


def main() -> None:
    """Make each plot for which there are figures."""
    for name, draw in PLOTS.items():
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        if draw(axes):
            figure.savefig(BUILD / f"bench-{name}.png", dpi=120)
            print(f"build/bench-{name}.png")
        plt.close(figure)


if __name__ == "__main__":
    main()
