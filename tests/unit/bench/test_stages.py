import pytest

from bench.stages import costs, stage_of

MAIN = "thread (7): MainThread;run (asyncio/runners.py:1);_prepare (valuetide/streams/shard.py:5)"
OTHER = "thread (8): Thread-1;_run (asyncio/events.py:2)"


@pytest.mark.parametrize(
    ("frame", "stage"),
    [
        ("decode (valuetide/streams/decode.py:9)", "decode"),
        ("score (valuetide/streams/shard_memory.py:190)", "current value, ranks, totals"),
        ("expect (valuetide/streams/shard_model.py:99);f (numpy/x.py:1)", "lifetime value"),
        ("f (elsewhere.py:468)", "shard, rest"),
    ],
)
def test_the_innermost_frame_of_a_stage_counts(frame: str, stage: str) -> None:
    assert stage_of(f"{MAIN};{frame}") == stage


def test_costs_are_those_of_each_thread_and_add_up_to_the_whole() -> None:
    lines = [
        f"{MAIN};decode (valuetide/streams/decode.py:9) 30",
        f"{MAIN};pack (valuetide/scoring/customers.py:9) 10",
        f"{OTHER};_fetch_records (x.py:1) 5",
        f"{OTHER};EpollSelector.select (selectors.py:468) 900",
        "thread (9): asyncio_0;_worker (concurrent/futures/thread.py:81) 900",
    ]
    found = costs("\n".join(lines), {7: 4.0, 8: 2.0, 9: 0.0}, 6.5)
    assert found == {"decode": 3.0, "fetch": 2.0, "pack states": 1.0, "other threads": 0.5}
