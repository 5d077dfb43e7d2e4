"""Intervals hold what they promise, also after the world has changed."""

import numpy as np
import pytest

from valuetide.scoring.lifetime.conformal import Conformal, intervals
from valuetide.scoring.lifetime.predictive import Predictive


def drawn(
    predicted: Predictive, rng: np.random.Generator, bias: float, spread: float
) -> np.ndarray:
    noise = rng.normal(size=predicted.none.size) * spread
    value = np.exp(predicted.log_median + predicted.log_sd * noise + bias)
    return np.where(rng.random(predicted.none.size) < predicted.none, 0.0, value)


def some(rng: np.random.Generator, count: int = 6_000) -> Predictive:
    return Predictive(rng.uniform(0, 0.79, count), rng.normal(size=count), np.full(count, 0.8))


def share(conformal: Conformal, predicted: Predictive, real: np.ndarray) -> float:
    low, high = conformal.interval(predicted)
    return float(((real >= low) & (real <= high)).mean())


def test_a_true_model_is_left_alone() -> None:
    rng = np.random.default_rng(1)
    predicted, conformal = some(rng), Conformal()
    real = drawn(predicted, rng, 0.0, 1.0)
    before = share(conformal, predicted, real)
    conformal.update(predicted, real)
    assert 0.79 < before < 0.84
    assert np.abs(conformal.upper).max() < 0.5


@pytest.mark.parametrize(("bias", "spread"), [(1.5, 1.0), (-1.0, 1.0), (0.0, 3.0), (0.0, 0.6)])
def test_a_wrong_model_is_put_right(bias: float, spread: float) -> None:
    rng = np.random.default_rng(2)
    conformal = Conformal()
    past, future = some(rng, 20_000), some(rng, 20_000)
    conformal.update(past, drawn(past, rng, bias, spread))
    assert share(conformal, future, drawn(future, rng, bias, spread)) == pytest.approx(
        0.8, abs=0.035
    )


def test_who_will_hardly_buy_takes_no_part() -> None:
    rare = Predictive(np.full(500, 0.95), np.zeros(500), np.ones(500))
    conformal = Conformal()
    conformal.update(rare, np.zeros(500))
    assert not conformal.upper.any()
    assert conformal.interval(rare)[1].tolist() == [0.0] * 500
    assert conformal.inside == 500


def test_cuts_and_restarts_change_nothing() -> None:
    rng = np.random.default_rng(3)
    predicted = some(rng, 500)
    real = drawn(predicted, rng, 0.5, 1.2)
    straight, cut = Conformal(), Conformal()
    straight.update(predicted, real)
    for part in np.array_split(np.arange(500), 13):
        cut.update(predicted.of(part), real[part])
        cut = Conformal.decode(cut.encode())
    assert cut.encode() == straight.encode()


def test_ends_are_in_order() -> None:
    predicted, conformal = some(np.random.default_rng(4)), Conformal()
    conformal.upper -= 5.0
    low, high = conformal.interval(predicted)
    assert (low <= high).all()


@pytest.mark.parametrize("blob", [b"", b"\x07\x00" + bytes(78)])
def test_strange_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="conformal"):
        Conformal.decode(blob)


def test_horizons_together_have_the_intervals_of_each() -> None:
    rng = np.random.default_rng(6)
    both = [Conformal(0.8), Conformal(0.6)]
    parts = [some(rng, 500), some(rng, 500)]
    together = Predictive(
        *(
            np.stack([getattr(part, name) for part in parts])
            for name in ("none", "log_median", "log_sd")
        )
    )
    found = np.stack(intervals(both, together))
    for nth, (one, part) in enumerate(zip(both, parts, strict=True)):
        # Ends that nothing has moved are quantiles of the prediction.
        tail = (1.0 - one.level) / 2.0
        often = part.none < tail
        quantiles = [part.quantile(np.full(500, level)) for level in (tail, 1.0 - tail)]
        np.testing.assert_allclose(found[:, nth, often], np.stack(quantiles)[:, often])
        one.update(part, drawn(part, rng, 0.7, 1.4))
    moved = np.stack(intervals(both, together))
    assert (moved[1] > found[1]).any(axis=1).all()
    for nth, (one, part) in enumerate(zip(both, parts, strict=True)):
        np.testing.assert_array_equal(moved[:, nth], np.stack(one.interval(part)))
