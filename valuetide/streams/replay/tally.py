"""What became of the rows: how many were read, how many were left out, and why."""

from dataclasses import dataclass, field

from valuetide.streams.replay.errors import ReplayError


@dataclass(slots=True)
class Skip:
    """Rows left out for one reason."""

    count: int
    first_line: int


@dataclass(slots=True)
class Tally:
    """Counts rows.

    Attributes
    ----------
    strict
        Stop at the first invalid row.
    rows
        Rows read so far.
    skipped
        Reason to rows left out for it. The reasons are few: they hold no value of a row.
    """

    strict: bool = False
    rows: int = 0
    skipped: dict[str, Skip] = field(default_factory=dict)

    def leave_out(self, reason: str, line: int) -> None:
        """Count a sound row that is no event of this replay, for example one with no customer."""
        skip = self.skipped.get(reason)
        if skip is None:
            self.skipped[reason] = Skip(1, line)
        else:
            skip.count += 1

    def invalid(self, reason: str, line: int) -> None:
        """Count a row that cannot be an event.

        Raises
        ------
        ReplayError
            When the tally is strict.
        """
        self.leave_out(reason, line)
        if self.strict:
            raise ReplayError(f"line {line}: {reason} (stopped there because of --strict)")
