"""When buckets may close: not before the slowest input that is at work, whatever the others do."""

from valuetide.schemas.topics import INPUTS
from valuetide.streams.watermark import Watermark

WALL = 2_000_000


def record(live: int = 0, **seen: int) -> dict[str, str]:
    """A shard's record: the newest event time by role; the offset changes with it."""
    fields = {f"max_event_at:{role}": str(seen.get(role, 0)) for role in INPUTS}
    fields |= {f"offset:{role}": str(seen.get(role, 0)) for role in INPUTS}
    return fields | {"live": str(live)}


def test_the_slowest_input_of_any_shard_decides() -> None:
    mark = Watermark(10.0)
    shards = [record(orders=500, interactions=300, feedback=400), record(orders=350)]
    shards[1] |= {"max_event_at:interactions": "600", "max_event_at:feedback": "700"}
    assert mark.of(shards, WALL, 0.0) == 300


def test_an_input_without_news_holds_nothing_up_after_a_while() -> None:
    mark = Watermark(10.0)
    mark.of([record(orders=500, interactions=300)], WALL, 0.0)
    assert mark.of([record(orders=600, interactions=300)], WALL, 9.0) is None
    assert mark.of([record(orders=700, interactions=300)], WALL, 11.0) == 700
    # It comes back with old events, and holds up again.
    assert mark.of([record(orders=800, interactions=310)], WALL, 12.0) == 310


def test_when_all_are_idle_a_live_shop_goes_by_the_clock_and_a_replay_stands() -> None:
    replayed, live = Watermark(10.0), Watermark(10.0)
    old, new = [record(orders=500, feedback=200)], [record(1, orders=500, feedback=200)]
    for now in (0.0, 20.0):
        replay, shop = replayed.of(old, WALL, now), live.of(new, WALL, now)
    assert (replay, shop) == (500, WALL)
    assert replayed.of(old, 2 * WALL, 30.0) == 500


def test_before_the_first_event_there_is_none() -> None:
    mark = Watermark(10.0)
    assert mark.of([{}, {}], WALL, 0.0) is None
    assert mark.of([{}, {}], WALL, 20.0) is None


def test_an_event_from_the_future_is_not_believed() -> None:
    mark = Watermark(10.0)
    mark.of([record(orders=WALL + 500)], WALL, 0.0)
    assert mark.of([record(orders=WALL + 600)], WALL, 20.0) == WALL


def test_an_input_that_has_only_dead_letters_holds_nothing_up() -> None:
    mark = Watermark(10.0)
    for now in range(13):
        shard = record(orders=500 + now) | {"offset:feedback": str(now)}
        found = mark.of([shard], WALL, float(now))
    assert found == 512


def test_an_input_that_stands_still_before_unread_events_holds_up_for_as_long() -> None:
    mark = Watermark(10.0)
    slow = record(1, orders=300) | {"behind:orders": "1"}
    mark.of([record(1, orders=500), slow], WALL, 0.0)
    assert mark.of([record(1, orders=600), slow], WALL, 500.0) == 300
    # Also when nobody has news.
    assert mark.of([record(1, orders=600), slow], WALL, 999.0) == 300
    read = record(1, orders=350) | {"behind:orders": "0"}
    mark.of([record(1, orders=600), read], WALL, 1_000.0)
    assert mark.of([record(1, orders=600), read], WALL, 1_010.0) == WALL


def test_a_paused_shard_holds_up_until_it_could_read_again() -> None:
    mark = Watermark(10.0)
    paused = record(1, orders=300) | {"paused_until": str(WALL + 5_000)}
    mark.of([record(1, orders=500), paused], WALL, 0.0)
    assert mark.of([record(1, orders=600), paused], WALL + 14_999, 60.0) == 300
    assert mark.of([record(1, orders=600), paused], WALL + 15_000, 60.0) == 600
