"""Event times, as they stand in files, to epoch seconds.

A time without an offset is taken as UTC, a date as its midnight in UTC.
"""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final

from valuetide.schemas.errors import InvalidEventError

NOT_A_TIME: Final = "occurred_at: is not a time (see --time-format)"
EPOCH_MS: Final = "epoch-ms"
"""Name to give as the time format where times are epoch milliseconds."""

_YEAR_9999: Final = 253_402_300_800.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_BASIC_DATE: Final = len("YYYYMMDD")


def time_parser(time_format: str | None = None) -> Callable[[object], float]:
    """Give a function from what stands in a row to epoch seconds.

    Parameters
    ----------
    time_format
        A format of ``strptime``, or ``epoch-ms``. None: RFC 3339, dates and epoch seconds are
        told apart by their form; eight digits are a date, YYYYMMDD.

    Returns
    -------
    callable
        Raises :class:`InvalidEventError` for what is not a time.

    Examples
    --------
    >>> parse = time_parser()
    >>> parse("1970-01-02"), parse("19700102"), parse("1970-01-01T01:00:00+01:00"), parse("12.5")
    (86400.0, 86400.0, 0.0, 12.5)
    >>> time_parser("%d.%m.%Y %H:%M")("02.01.1970 00:01")
    86460.0
    """

    def parse(value: object) -> float:
        try:
            seconds = _parse(value, time_format)
        except (ValueError, TypeError, OverflowError):
            raise InvalidEventError(NOT_A_TIME) from None
        if not math.isfinite(seconds) or seconds >= _YEAR_9999:
            raise InvalidEventError(NOT_A_TIME)
        return seconds

    return parse


def _parse(value: object, time_format: str | None) -> float:
    if isinstance(value, date):  # a datetime is one, too
        if not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        return _seconds(value)
    if isinstance(value, bool):
        raise TypeError
    if time_format == EPOCH_MS:
        return float(str(value)) / 1000.0
    return _parse_text(str(value).strip(), time_format)


def _parse_text(text: str, time_format: str | None) -> float:
    if time_format is not None:
        return _seconds(datetime.strptime(text, time_format))
    if text.isdecimal() and len(text) == _BASIC_DATE:
        return _seconds(datetime(int(text[:4]), int(text[4:6]), int(text[6:])))
    try:
        return float(text)
    except ValueError:
        return _seconds(datetime.fromisoformat(text))


def _seconds(value: datetime) -> float:
    # Whole microseconds first, so that the result is the double nearest to the time.
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return ((aware - _EPOCH) // _MICROSECOND) / 1_000_000
