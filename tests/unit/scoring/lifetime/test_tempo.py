"""The tempo of customers as a whole."""

import numpy as np
import pytest

from valuetide.scoring.lifetime.tempo import Tempo, pooled_factor


def run(ratio: float, cohorts: int = 30) -> Tempo:
    """Cohorts whose outcome is known eight cohorts later."""
    tempo, factors = Tempo(), [1.0] * 8
    for _ in range(cohorts):
        tempo.learn(800.0, factors.pop(0), 800.0 * ratio)
        factors.append(tempo.factor)
        tempo = Tempo.decode(tempo.encode())
    return tempo


def test_an_exact_model_needs_no_factor() -> None:
    tempo = run(1.0)
    assert tempo.factor == pytest.approx(1.0)
    assert not tempo.helps


def test_half_of_the_ratio_is_taken_and_helps() -> None:
    tempo = run(1.5)
    assert 1.08 < tempo.factor < 1.5**0.5
    assert tempo.helps
    assert pooled_factor([tempo, tempo], proven=True) == pytest.approx(tempo.factor)


def test_the_factor_is_the_root_of_the_weighted_ratio() -> None:
    rng = np.random.default_rng(4)
    predicted, actual = rng.gamma(9, 9, 12), rng.gamma(9, 11, 12)
    tempo = Tempo()
    for one, other in zip(predicted.tolist(), actual.tolist(), strict=True):
        tempo.learn(one, 1.0, other)
    weight, prior = 0.72 ** np.arange(11, -1, -1), 2 * actual.mean()
    wanted = np.sqrt((weight @ actual + prior) / (weight @ predicted + prior))
    assert tempo.factor == pytest.approx(wanted)


def test_it_is_on_only_while_it_helps() -> None:
    """Sales turn: what was learned of the good times would make predictions worse."""
    tempo, on, factors = Tempo(), [], [1.0] * 8
    for nth in range(60):
        tempo.learn(100.0, factors.pop(0), 150.0 if nth < 20 else 60.0)
        factors.append(tempo.factor)
        on.append(pooled_factor([tempo], proven=True) != 1.0)
    assert on[:8] == [False] * 8
    assert all(on[8:20])
    assert not any(on[25:30])
    assert on[-1]
    assert tempo.factor < 1.0


def test_nothing_is_said_without_a_cohort_or_revenue() -> None:
    assert pooled_factor([]) == pooled_factor([Tempo()]) == 1.0
    free = Tempo()
    free.learn(0.0, 1.0, 0.0)
    assert free.factor == 1.0


@pytest.mark.parametrize("blob", [b"", b"\x07\x00" + bytes(54), Tempo().encode() + b"x"])
def test_strange_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="tempo"):
        Tempo.decode(blob)
