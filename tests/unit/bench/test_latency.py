import numpy as np
import pytest

from bench.latency import arrivals_by_version, summary


def test_an_event_arrives_with_the_first_score_that_contains_it() -> None:
    sent = {b"a": [0.0, 1.0, 2.0], b"b": [5.0]}
    received = {b"a": [(1.5, 2), (1.6, 1), (3.0, 3)], b"b": [(5.1, 1), (5.2, 1)]}
    found = arrivals_by_version(sent, received)
    assert found[b"a"].tolist() == [1.5, 1.5, 3.0]
    assert found[b"b"].tolist() == [5.1]


@pytest.mark.parametrize("scores", [[], [(1.0, 1)]])
def test_an_event_without_a_score_is_an_error(scores: list[tuple[float, int]]) -> None:
    with pytest.raises(AssertionError, match="no such version"):
        arrivals_by_version({b"a": [0.0, 0.5]}, {b"a": scores})


def test_percentiles_are_in_milliseconds() -> None:
    found = summary(np.arange(101) / 1000.0, 0.002)
    assert (found.p50_ms, found.p90_ms, found.p99_ms, found.worst_ms) == (50.0, 90.0, 99.0, 100.0)
    assert (found.events, found.sender_late_ms) == (101, 2.0)
