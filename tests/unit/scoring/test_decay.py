import math

import numpy as np
import pytest

from valuetide.scoring.arrays import DAY_MS
from valuetide.scoring.decay import (
    LANDMARK_MS,
    backward_weight,
    forward_weight,
    half_life_in_ms,
)


@pytest.mark.parametrize("days", [29.9, 0, -1, math.nan, math.inf])
def test_a_half_life_out_of_range_is_refused(days: float) -> None:
    with pytest.raises(ValueError, match="half_life_days"):
        half_life_in_ms(days)


def test_there_and_back_is_one() -> None:
    half_life = half_life_in_ms(90)
    now = LANDMARK_MS + 1234 * DAY_MS
    assert math.isclose(
        forward_weight(np.array([now]), half_life)[0] * backward_weight(now, half_life), 1
    )


@pytest.mark.parametrize("at", [0, (1 << 48) - 1])
def test_the_extremes_of_time_stay_finite(at: int) -> None:
    half_life = half_life_in_ms(30)
    weight = float(forward_weight(np.array([at]), half_life)[0])
    for now in (0, (1 << 48) - 1):
        product = weight * (2.0**63) * backward_weight(now, half_life)
        assert math.isfinite(product)
        assert product > 0
