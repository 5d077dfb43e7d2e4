"""The tempo of customers as a whole."""

import numpy as np
import pytest

from valuetide.scoring.lifetime.tempo import Tempo, pooled_factor


def run(ratio: float, weeks: int = 30) -> Tempo:
    tempo = Tempo()
    for week in range(weeks):
        day = 7 * week
        tempo.credit(np.array([0]), np.array([day]), np.array([100.0 * ratio]))
        tempo.close(day)
        tempo.open(day, 800.0)
        tempo = Tempo.decode(tempo.encode())
    return tempo


def test_an_exact_model_needs_no_factor() -> None:
    assert run(1.0).factor == pytest.approx(1.0)


def test_half_of_the_ratio_is_taken_and_helps() -> None:
    tempo = run(1.5)
    assert 1.08 < tempo.factor < 1.5**0.5
    assert tempo.helps
    assert pooled_factor([tempo, tempo], proven=True) == pytest.approx(tempo.factor)


def test_nothing_is_said_without_a_closed_window() -> None:
    assert pooled_factor([]) == pooled_factor([Tempo()]) == pooled_factor([run(2.0, 5)]) == 1.0


def test_customers_who_came_later_do_not_count() -> None:
    tempo = Tempo()
    tempo.open(10, 5.0)
    tempo.credit(np.array([10, 11, 3]), np.array([11, 12, 67]), np.array([1.0, 2.0, 4.0]))
    assert tempo.windows[0].actual == 1.0


@pytest.mark.parametrize("blob", [b"", b"\x07\x00" + bytes(54), Tempo().encode() + b"x"])
def test_strange_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="tempo"):
        Tempo.decode(blob)
