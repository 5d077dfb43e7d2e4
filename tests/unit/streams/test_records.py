"""What goes out agrees with its schema, and sums with plain Python."""

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.support.reference import Event
from tests.support.stream import NOW, fold_events, rows_of
from valuetide.schemas.score import DEFAULT_HORIZONS, RANKED, Score, ranked_fields
from valuetide.schemas.vocabulary import RfmBands
from valuetide.scoring.arrays import NO_TIME
from valuetide.scoring.current_value import CurrentValue, current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.decay import LANDMARK_MS
from valuetide.streams.pool import Knowledge
from valuetide.streams.reader import parse_score
from valuetide.streams.records import (
    COLUMNS,
    TEXTS,
    TOTALS,
    format_times,
    month_sums,
    rank_values,
    score_columns,
    score_messages,
    score_rows,
    stored_columns,
    stored_rows,
)
from valuetide.streams.settings import load_settings
from valuetide.streams.shard_model import Past, ShardModel, basis_of

DAY_MS = 86_400_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCORE = TypeAdapter(Score)
times = st.integers(0, 253_402_300_799_999)
# With the shortest half-life of 30 days, weights reach 39 years from the landmark: 1981 to 2058.
moments_in_reach = st.integers(4_100 * DAY_MS, 32_500 * DAY_MS)


def value_of(customers: Customers, now_ms: int = NOW) -> CurrentValue:
    rows = rows_of(customers, customers.ids)
    return current_value(customers, rows, now_ms, minor_digits=2, bands=RfmBands())


def rows_at(customers: Customers, digits: int = 2) -> list[tuple[Any, ...]]:
    """Give all customers' rows at NOW, with the prior's expectations."""
    value = value_of(customers)
    settings = load_settings(vocabulary={"minor_digits": digits})
    totals = {name: int(getattr(value, name).sum()) for name in TOTALS}
    count = len(customers)
    signals = customers.signals[:count]
    past = Past(np.zeros(count, np.int64), np.full(count, np.nan), basis_of(value), signals)
    ahead = ShardModel(settings, {}).expect(value, signals, past, totals, Knowledge(), NOW)
    return score_rows(value, ahead, np.full(ahead.clv.size, 50.0), NOW, digits)


@given(st.lists(times | st.just(NO_TIME), max_size=5))
def test_times_are_written_in_utc_with_milliseconds(at: list[int]) -> None:
    texts = format_times(np.array(at, np.int64))
    for one, text in zip(at, texts, strict=True):
        if one == NO_TIME:
            assert text is None
        else:
            assert text is not None
            assert text.endswith("Z")
            assert (datetime.fromisoformat(text) - EPOCH) / timedelta(milliseconds=1) == one
            assert len(text) == len("1970-01-01T00:00:00.000Z")


def test_what_is_stored_is_read_back_as_it_is_sent() -> None:
    customers = Customers()
    fold_events(customers, Event(1, "placed", NOW - 10**9, 1, 4_500), who="ann")
    fold_events(customers, Event(2, "interaction", NOW - 10**8, cost=5), who="bob")
    for row, stored in zip(rows := rows_at(customers), stored_rows(rows), strict=True):
        raw = [b"" if value is None else str(value).encode() for value in stored]
        score = parse_score("who", raw, stored_columns(DEFAULT_HORIZONS))
        sent = {"customer_id": "who"} | dict(zip(COLUMNS, row, strict=True))
        assert score == sent | {"clv_percentile": None}
        assert list(score) == list(sent)
    assert rows[0][-6:] != (None,) * 6 == rows[1][-6:]


def test_text_is_what_is_stored_as_text() -> None:
    customers = Customers()
    fold_events(customers, Event(1, "placed", NOW - 10**9, 1, 4_500), who="ann")
    fold_events(customers, Event(2, "placed", NOW - 10**8, 2, 4_500), who="ann")
    (stored,) = stored_rows(rows_at(customers))
    for name, value in zip(stored_columns(DEFAULT_HORIZONS), stored, strict=True):
        assert isinstance(value, str) == (name in TEXTS), name


def test_horizons_name_the_fields() -> None:
    names = score_columns((7, 30, 365))
    assert len(set(names)) == len(names) == len(COLUMNS) + 4
    assert {"clv_7d", "clv_30d_low", "expected_orders_365d"} <= set(names)
    assert "clv_90d" not in names
    assert ranked_fields((7, 30))[-1] == "clv_30d"


def test_a_row_has_the_fields_of_the_schema_in_their_order() -> None:
    assert ("customer_id", *COLUMNS) == tuple(Score.__annotations__)
    assert set(RANKED) | set(TOTALS) <= set(COLUMNS)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["placed", "returned", "cancelled", "interaction", "feedback"]),
            st.integers(0, NOW),
            st.integers(0, 5),
            st.integers(0, 10**13),
            st.integers(0, 10**13),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["ann", "ü\n🙂", '"{}"', "x" * 128]),
)
def test_messages_pass_the_schema_and_equal_the_rows(
    parts: list[tuple[str, int, int, int, int]], who: str
) -> None:
    customers = Customers()
    events = [
        Event(n, kind, at, order, amount, cost)  # type: ignore[arg-type]
        for n, (kind, at, order, amount, cost) in enumerate(parts)
    ]
    fold_events(customers, *events, who=who)
    (row,) = rows_at(customers)
    (message,) = score_messages([who], [row])
    SCORE.validate_json(message)
    assert json.loads(message) == {"customer_id": who} | dict(zip(COLUMNS, row, strict=True))


@given(st.integers(0, 10**15), st.integers(0, 4))
def test_money_prints_as_its_decimal(minor: int, digits: int) -> None:
    customers = Customers()
    fold_events(customers, Event(1, "interaction", cost=minor))
    (row,) = rows_at(customers, digits)
    cost = row[COLUMNS.index("cost_to_serve")]
    assert round(cost * 10**digits) == minor
    if minor < 10**15:
        assert float(f"{minor // 10**digits}.{minor % 10**digits:0{max(1, digits)}d}") == cost


def test_a_customer_without_orders_has_nulls_and_no_nan() -> None:
    customers = Customers()
    fold_events(customers, Event(1, "feedback", NOW))
    (row,) = rows_at(customers)
    score = dict(zip(COLUMNS, row, strict=True))
    ahead = COLUMNS[COLUMNS.index("p_alive") :]
    none = ("first_order_at", "last_order_at", "recency_days", "monetary_value", *ahead)
    assert {name for name, value in score.items() if value is None} == set(none)
    assert score["rfm"] == "000"
    assert b"NaN" not in score_messages(["ann"], [row])[0]


@settings(deadline=None)
@given(
    orders=st.lists(st.tuples(moments_in_reach, st.integers(1, 10**13)), min_size=1, max_size=8),
    half_life=st.sampled_from([30.0, 90.0, 36_500.0]),
    moments=st.tuples(moments_in_reach, moments_in_reach),
)
def test_a_rank_value_stays_what_it_is_while_no_event_comes(
    orders: list[tuple[int, int]], half_life: float, moments: tuple[int, int]
) -> None:
    customers = Customers(half_life)
    events = [Event(n, "placed", at, n, amount) for n, (at, amount) in enumerate(orders)]
    fold_events(customers, *events)
    first, second, third = (
        rank_values(value_of(customers, now), now, half_life, 2)[:, 0]
        for now in (LANDMARK_MS, *moments)
    )
    assert second == pytest.approx(first, rel=1e-12, abs=1e-9)
    assert third == pytest.approx(first, rel=1e-12, abs=1e-9)
    assert np.isfinite(first).all()
    gross = sum(amount for _, amount in orders) / 100
    assert first[:2] == pytest.approx([gross, gross])


def test_rank_values_order_customers_by_their_decayed_value() -> None:
    customers = Customers()
    for n, (days, amount) in enumerate([(300, 50_00), (10, 20_00), (100, 20_00), (0, 0)]):
        event = Event(n, "placed", NOW - days * DAY_MS, n, amount)
        fold_events(customers, event, who=str(n))
    value = value_of(customers)
    ranks = rank_values(value, NOW, 90.0, 2)[RANKED.index("decayed_value")]
    assert np.argsort(ranks).tolist() == np.argsort(value.decayed_value).tolist()


@given(st.lists(st.tuples(times, st.integers(0, 2), st.integers(0, 10**13)), max_size=30))
def test_month_sums_equal_plain_sums(events: list[tuple[int, int, int]]) -> None:
    wanted: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    for at, kind, amount in events:
        month = (EPOCH + timedelta(milliseconds=at)).strftime("%Y-%m")
        wanted[month.zfill(7)][2 * kind] += 1
        wanted[month.zfill(7)][2 * kind + 1] += amount
    columns = np.array(events, np.int64).reshape(-1, 3).T
    found = month_sums(columns[0], columns[1].astype(np.uint8), columns[2])
    assert {month: sums.tolist() for month, sums in found.items()} == wanted
