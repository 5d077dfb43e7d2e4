"""What a run has to tell: as JSON for a machine, as a table for people."""

import json
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One fault: what happened, and how long it took until all went on."""

    at: float
    family: str
    fault: str
    injected: bool
    evidence: str
    recovery_seconds: float | None = None
    noticed_seconds: float | None = None
    complaint: str = ""


@dataclass
class Report:
    """One run."""

    kind: str
    seed: int
    command: str
    entries: list[Entry] = field(default_factory=list)
    load: dict[str, Any] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def injected(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.injected]

    @property
    def sound(self) -> bool:
        return not self.failures

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read(path: Path) -> Report:
    values = json.loads(path.read_text())
    values["entries"] = [Entry(**entry) for entry in values["entries"]]
    return Report(**values)


def table(reports: list[Report]) -> str:
    """Give a table in Markdown: faults by class, over all runs."""
    kinds = sorted({report.kind for report in reports})
    groups: dict[tuple[str, str], dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for report in reports:
        for entry in report.injected:
            groups[entry.family, entry.fault][report.kind].append(entry)
    lines = ["| where | fault |" + "".join(f" {k}: times | median s | worst s |" for k in kinds)]
    lines.append("|---|---|" + "---|" * 3 * len(kinds))
    for (family, fault), by_kind in sorted(groups.items(), key=lambda item: item[0][0]):
        cells = ""
        for kind in kinds:
            entries = by_kind.get(kind, [])
            times = [e.recovery_seconds for e in entries if e.recovery_seconds is not None]
            cells += f" {len(entries) or '-'} |"
            cells += f" {statistics.median(times):.1f} | {max(times):.1f} |" if times else " | |"
        lines.append(f"| {family} | {fault} |{cells}")
    totals = "".join(
        f" {sum(len(report.injected) for report in reports if report.kind == kind)} | | |"
        for kind in kinds
    )
    lines.append(f"| | all |{totals}")
    return "\n".join(lines)


def runs(reports: list[Report]) -> str:
    """Give a table in Markdown: one line a run."""
    lines = [
        "| command | faults | events sent, copies included | events/s | counted | customers |"
        " dead letters | steps of alerts | re-published | commits refused |"
        " workers ended by themselves |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        load, verified, workers = report.load, report.verified, report.workers
        cells = [
            f"`{report.command}`",
            len(report.injected),
            f"{load.get('acknowledged', 0):,}",
            f"{load.get('events_per_second', 0):,}",
            f"{verified.get('folded', 0):,}",
            f"{verified.get('customers', 0):,}",
            f"{verified.get('letters', 0):,}",
            f"{verified.get('alerts', 0):,}",
            f"{verified.get('rerouted', 0):,}",
            workers.get("refused", 0),
            workers.get("exits", 0),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
