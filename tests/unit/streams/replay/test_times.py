from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from valuetide.schemas.errors import InvalidEventError
from valuetide.streams.replay.times import EPOCH_MS, time_parser

NOON = datetime(2011, 1, 5, 12, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "written",
    [
        "2011-01-05T12:00:00Z",
        "2011-01-05T13:00:00+01:00",
        "2011-01-05 12:00:00",
        "  2011-01-05T12:00 ",
        str(NOON),
        NOON,
        int(NOON),
        datetime(2011, 1, 5, 12),
        datetime(2011, 1, 5, 14, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_every_form_of_one_moment_is_that_moment(written: object) -> None:
    assert time_parser()(written) == NOON


@pytest.mark.parametrize("written", ["2011-01-05", "20110105", date(2011, 1, 5), 20110105])
def test_a_date_is_its_midnight_in_utc(written: object) -> None:
    assert time_parser()(written) == NOON - 43_200


def test_a_format_is_followed_and_taken_as_utc_unless_it_has_an_offset() -> None:
    assert time_parser("%d/%m/%Y %H:%M")("05/01/2011 12:00") == NOON
    assert time_parser("%d/%m/%Y %H:%M %z")("05/01/2011 13:00 +0100") == NOON
    assert time_parser("%Y")(2011) == datetime(2011, 1, 1, tzinfo=UTC).timestamp()


def test_milliseconds_are_read_when_asked_for() -> None:
    assert time_parser(EPOCH_MS)(int(NOON * 1000)) == NOON
    assert time_parser(EPOCH_MS)(f"{NOON * 1000:.0f}") == NOON


def test_microseconds_survive() -> None:
    assert time_parser()("1970-01-01T00:00:00.000001Z") == 1e-06
    assert time_parser()("2011-01-05T12:00:00.123456Z") == NOON + 0.123456


@pytest.mark.parametrize(
    "written",
    ["", "soon", "2011-13-01", "20111301", "nan", "inf", True, "1e300", [], 1_700_000_000_000],
)
def test_what_is_no_time_is_refused_without_its_value(written: object) -> None:
    with pytest.raises(InvalidEventError, match=r"^occurred_at: is not a time \(see"):
        time_parser()(written)
