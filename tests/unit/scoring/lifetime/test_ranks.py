"""Percentiles are those of all values, whatever came and went, and the pieces are the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.lifetime.ranks import BINS, NAMES, REACH, WIDTH, Percentiles, Ranks, bin_of

NOTHING = np.full(1, np.nan)
HALF_A_POINT = 0.5


def true_percentiles(values: FloatArray) -> FloatArray:
    """Give the middle of the ranks of each value, by sorting."""
    ordered = np.sort(values)
    low = np.searchsorted(ordered, values, side="left")
    high = np.searchsorted(ordered, values, side="right")
    found: FloatArray = 50.0 * (low + high) / values.size
    return found


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("spread", [0.3, 1.5, 4.0])
def test_error_stays_below_half_a_point(shards: int, spread: float) -> None:
    rng = np.random.default_rng(3)
    values: FloatArray = np.round(np.exp(rng.normal(7.0, spread, 20_000))).astype(np.float64)
    values[:2_000] *= -0.1
    values[2_000:6_000] = 0.0
    values[6_000:12_000] = np.repeat(values[6_000:6_060], 100)  # customers of the same days
    ranks = [Ranks() for _ in range(shards)]
    for one, part in zip(ranks, np.array_split(values, shards), strict=True):
        one.move(np.full(part.size, np.nan), part)
    error = np.abs(Percentiles(ranks).of(values) - true_percentiles(values))
    assert error.max() < HALF_A_POINT


def test_it_keeps_up_with_customers_who_move() -> None:
    rng = np.random.default_rng(4)
    values = np.full(5_000, np.nan)
    ranks = Ranks()
    percentiles = Percentiles([ranks])
    worst = 0.0
    for _ in range(300):
        who = rng.choice(5_000, 100, replace=False)
        new = np.exp(rng.normal(8.0, 1.0, 100))
        new[:5] = np.nan  # lost their last order
        ranks.move(values[who], new)
        values[who] = new
        ranked = values[~np.isnan(values)]
        error = np.abs(percentiles.of(ranked) - true_percentiles(ranked))
        # One customer more or less is already half a point where there are few.
        if ranked.size > 1_000:
            worst = max(worst, float(error.max()))
    assert 0.0 < worst < HALF_A_POINT


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-1e13, 1e13) | st.just(float("nan")))))
def test_counts_are_those_of_the_last_values_and_pieces_are_the_whole(
    moves: list[tuple[int, float]],
) -> None:
    ranks, last = Ranks(), dict[int, float]()
    stored: dict[str, bytes] = {}
    for who, value in moves:
        ranks.move(np.array([last.get(who, np.nan)]), np.array([value]))
        last[who] = value
        stored |= ranks.take()
    now = np.array([value for value in last.values() if value == value], np.float64)  # noqa: PLR0124 - NaN differs from itself
    np.testing.assert_array_equal(ranks.counts, np.bincount(bin_of(now), minlength=BINS))
    np.testing.assert_array_equal(Ranks(stored).counts, ranks.counts)
    assert ranks.take() == {}


def test_nobody_has_a_rank_of_nought_and_ends_are_reached() -> None:
    assert Percentiles([]).of(np.array([1.0])).tolist() == [0.0]
    ranks = Ranks()
    ranks.move(NOTHING, np.array([5.0]))
    assert Percentiles([ranks]).of(np.array([-1e30, 1e30])).tolist() == [0.0, 100.0]


def test_bins_are_a_thousandth_wide() -> None:
    assert bin_of(np.array([-1e300, 1e300])).tolist() == [0, BINS - 1]
    values = np.exp(np.linspace(3.0, 20.0, 1_000))
    steps = bin_of(values * (1.0 + 1.01 * WIDTH)) - bin_of(values)
    assert steps.min() >= 1
    assert bin_of(np.sinh(np.array([REACH]) - WIDTH)) < BINS


def test_a_piece_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        Ranks({NAMES[7]: b"abc"})
