from hypothesis import given
from hypothesis import strategies as st

from tests.unit.streams.replay.helpers import event
from valuetide.streams.replay.ordering import in_event_time


@given(st.lists(st.integers(0, 5)), st.integers(1, 7))
def test_runs_merged_are_one_stable_sort(times: list[int], run_length: int) -> None:
    events = [event(i, f"kö{i}", float(at)) for i, at in enumerate(times)]
    merged = list(in_event_time(events, run_length))
    assert merged == sorted(events, key=lambda e: e.occurred_at)
