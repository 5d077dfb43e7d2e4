"""What a point's place in time says about it: columns of seasons, and names of holidays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from valuetide.scoring.arrays import FloatArray

LEVEL: Final = 0
SLOPE: Final = 1
_NO_HOLIDAYS: Final[Mapping[int, str]] = {}


@dataclass(frozen=True, slots=True)
class Season:
    """A pattern that comes back, as a sum of waves.

    Parameters
    ----------
    points
        Length in points: 7 for a week of days, 168 for a week of hours, 365.25 for a year of days.
    harmonics
        Number of waves; 3 give any pattern of seven days.
    opens_at
        Points of a series before the pattern is looked for: a year cannot be told from a trend
        before it is over.
    """

    points: float
    harmonics: int
    opens_at: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.harmonics <= self.points / 2:
            raise ValueError(f"a season of {self.points} points has 1 to half as many harmonics")


WEEK_OF_DAYS: Final = Season(7.0, 3)
YEAR_OF_DAYS: Final = Season(365.25, 3, opens_at=365)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Seasons and holidays of the points of a series.

    Parameters
    ----------
    seasons
        What comes back.
    holidays
        Name of the holiday by day number (days since 1970); days of one name share one effect.
    points_per_day
        1 for days, 24 for hours.

    Examples
    --------
    >>> Calendar(holidays={20_447: "christmas"}).holiday(20_447)
    0
    >>> Calendar(seasons=(WEEK_OF_DAYS,)).width
    8
    """

    seasons: tuple[Season, ...] = (WEEK_OF_DAYS, YEAR_OF_DAYS)
    holidays: Mapping[int, str] = field(default_factory=lambda: _NO_HOLIDAYS)
    points_per_day: int = 1

    @property
    def width(self) -> int:
        """Number of columns: level, slope, and two a wave, but one for the shortest wave."""
        return 2 + sum(_columns(season) for season in self.seasons)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the holidays, sorted."""
        return tuple(sorted(set(self.holidays.values())))

    def holiday(self, point: int) -> int:
        """Position in ``names`` of the holiday at a point, -1 when there is none."""
        name = self.holidays.get(point // self.points_per_day)
        return -1 if name is None else self.names.index(name)

    def row(self, point: int) -> FloatArray:
        """Columns of a point (number of the bucket since 1970), (width,).

        The level counts once; the slope, which is kept as of the present point, not at all.
        """
        row = [1.0, 0.0]
        for season in self.seasons:
            angle = 2.0 * np.pi * (point % (season.points * _WHOLE)) / season.points
            for wave in range(1, season.harmonics + 1):
                row.append(float(np.cos(wave * angle)))
                if wave * 2 != season.points:
                    row.append(float(np.sin(wave * angle)))
        return np.array(row)

    def opens_at(self) -> FloatArray:
        """Points of a series at which each column begins to count, (width,)."""
        parts = [np.zeros(2)]
        parts += [np.full(_columns(season), float(season.opens_at)) for season in self.seasons]
        return np.concatenate(parts)


# Angles are taken of a remainder, so that they stay exact for large numbers of points.
_WHOLE: Final = 400


def _columns(season: Season) -> int:
    return 2 * season.harmonics - int(season.harmonics * 2 == season.points)
