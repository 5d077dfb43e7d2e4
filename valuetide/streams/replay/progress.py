"""A replay's progress and summary for people."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from valuetide.streams.replay.send import Progress


@contextmanager
def progress_on(console: Console) -> Iterator[Callable[[Progress], None] | None]:
    """Show progress while the context lasts; ``None`` where nobody can see it."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} events"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TextColumn("{task.fields[reached]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("replay", total=None, rate=0.0, reached="reading")

        def show(progress: Progress) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = progress.acknowledged / elapsed if elapsed else 0.0
            bar.update(
                task,
                completed=progress.acknowledged,
                rate=rate,
                reached=_day_and_time(progress.occurred_at),
            )

        yield show


def summary_text(summary: dict[str, Any]) -> str:
    """Write a summary, as :meth:`valuetide.streams.replay.run.Replay.summary` gives it.

    Examples
    --------
    >>> print(summary_text({"file": "a.csv", "topic": "orders", "rows": 3, "events": 2,
    ...     "resumed_from": 0, "seconds": 0.5, "events_per_second": 4,
    ...     "skipped": {"customer_id: is missing": {"count": 1, "first_line": 3}}}))
    a.csv to orders
      rows read    3
      skipped      1  customer_id: is missing (first in line 3)
      events sent  2 in 0.5 s, 4 a second
    """
    lines = [f"{summary['file']} to {summary['topic']}", f"  rows read    {summary['rows']:,}"]
    for reason, skip in summary["skipped"].items():
        where = f"first in line {skip['first_line']:,}"
        lines.append(f"  skipped      {skip['count']:,}  {reason} ({where})")
    if summary["resumed_from"]:
        lines.append(f"  sent before  {summary['resumed_from']:,}")
    speed = f"{summary['seconds']:,.1f} s, {summary['events_per_second']:,} a second"
    lines.append(f"  events sent  {summary['events']:,} in {speed}")
    return "\n".join(lines)


def _day_and_time(occurred_at: float | None) -> str:
    if occurred_at is None:
        return ""
    return datetime.fromtimestamp(occurred_at, UTC).strftime("%Y-%m-%d %H:%M")
