from datetime import date
from decimal import Decimal

from valuetide.streams.demo.batch import Purchase
from valuetide.streams.demo.foresight import (
    AHEAD_DAYS,
    FREEZE,
    Decile,
    beginning_ms,
    by_quarter,
    compared,
)
from valuetide.streams.replay.event import SourceEvent


def at(day: date) -> SourceEvent:
    return SourceEvent("ann", beginning_ms(day) / 1_000, b"")


def bought(*days: date) -> list[Purchase]:
    return [Purchase(day, Decimal(9)) for day in days]


def test_events_are_parted_at_midnight_of_each_quarters_first_day() -> None:
    days = [date(1997, 9, 30), date(1997, 10, 1), date(1997, 12, 31), date(1998, 1, 1)]
    parts = [(end, len(list(part))) for end, part in by_quarter(map(at, days))]
    assert parts == [(date(1997, 10, 1), 1), (date(1998, 1, 1), 2), (date(1998, 4, 1), 1)]


def test_deciles_go_from_few_to_many_and_leave_nobody_out() -> None:
    predicted = {str(number): float(number) for number in range(25)}
    deciles = compared(predicted, {})
    assert [one.customers for one in deciles] == [2, 3, 2, 3, 2, 3, 2, 3, 2, 3]
    assert [one.predicted for one in deciles][:2] == [0 + 1, 2 + 3 + 4]
    assert sum(one.predicted for one in deciles) == sum(range(25))


def test_what_came_is_counted_by_days_from_the_freeze_until_the_horizon() -> None:
    first, last = FREEZE, date.fromordinal(FREEZE.toordinal() + AHEAD_DAYS - 1)
    day_before, too_late = (
        date.fromordinal(d.toordinal() + by) for d, by in ((first, -1), (last, 1))
    )
    customers = {"ann": bought(day_before, first, first, last, too_late), "new": bought(first)}
    assert compared({"ann": 1.5}, customers)[-1] == Decile(1, 1.5, 2)
