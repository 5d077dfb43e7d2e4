"""Figures, the bounds that they are held to, and the end of a benchmark."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Outcome:
    """What was measured, and which bounds were missed."""

    values: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def bound(self, name: str, value: float, low: float, high: float) -> None:
        """Hold a figure to its bound."""
        self.values[name] = {"value": value, "low": low, "high": high}
        if not low <= value <= high:
            self.missed.append(f"{name}: {value:.4g} is not within {low:.4g} and {high:.4g}")

    def right(self, name: str, value: float, high: float) -> None:
        """Hold a figure to a bound beyond which the program, not the model, is at fault."""
        before = len(self.missed)
        self.bound(name, value, 0.0, high)
        self.wrong += self.missed[before:]

    def write(self, path: Path) -> None:
        """Write all figures as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = {"missed": self.missed, **self.values}
        path.write_text(json.dumps(figures, indent=1, default=np.ndarray.tolist))

    def judge(self) -> int:
        """Name the bounds that are missed; gives the exit status."""
        print(f"\n{len(self.missed)} bounds missed")
        for line in self.missed:
            print("  " + line)
        return 1 if self.missed else 0
