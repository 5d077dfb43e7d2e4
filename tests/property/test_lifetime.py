"""Whatever the stream and the cuts, the sample is that of all orders and the learner stays sane."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.parameters import PURCHASES_BOX, SPEND_BOX
from valuetide.scoring.lifetime.sample import Exact, Orders, Sample

quick = settings(deadline=None, max_examples=100)
events = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 25), st.sampled_from([0.0, 0.01, 10.0, 1e7])),
    max_size=120,
)
Event = tuple[int, int, float]


def orders(stream: list[Event]) -> Orders:
    who, day, amount = zip(*stream, strict=True) if stream else ((), (), ())
    return Orders(np.array(who, np.uint64), np.array(day, np.int64), np.array(amount, np.float64))


def cut(data: st.DataObject, stream: list[Event]) -> list[list[Event]]:
    at = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)]


@quick
@given(events, st.data())
def test_members_are_the_smallest_keys_with_the_histories_of_all_orders(
    stream: list[Event], data: st.DataObject
) -> None:
    stream = sorted(stream, key=lambda event: event[1])
    sample = Sample(seed=2, size=12)
    for part in cut(data, stream):
        sample.fold(orders(part))
    expected = []
    for who in {event[0] for event in stream}:
        own = [event for event in stream if event[0] == who]
        days = sorted({day for _, day, _ in own})
        spent = sum(amount for _, day, amount in own if day != days[0])
        key = int(sample.keys(np.array([who], np.uint64))[0])
        expected.append((key, days[0], days[-1], len(days) - 1, spent))
    found = sample.members
    for row, (key, first, last, x, spent) in zip(found, sorted(expected)[:12], strict=True):
        assert (row["key"], row["first_day"], row["last_day"], row["x"]) == (key, first, last, x)
        np.testing.assert_allclose(row["spent"], spent)


@quick
@given(events, st.data())
def test_cuts_and_restarts_change_nothing(stream: list[Event], data: st.DataObject) -> None:
    straight, parts = Learner(size=8), Learner(size=8)
    straight.learn(orders(stream))
    for part in cut(data, stream):
        parts.learn(orders(part))
        parts = Learner.decode(parts.encode())
    assert parts.encode() == straight.encode()
    for logs, box in ((straight.purchases, PURCHASES_BOX), (straight.spend, SPEND_BOX)):
        assert ((logs >= box[0]) & (logs <= box[1])).all()


@quick
@given(events)
def test_a_correction_replaces_and_zero_days_removes(stream: list[Event]) -> None:
    sample = Sample(size=12)
    sample.fold(orders(stream))
    people = np.unique(orders(stream).who)
    ones = np.ones(people.size)
    days = (people % np.uint64(3)).astype(np.int64)
    sample.correct(Exact(people, ones.astype(int), ones.astype(int) + 5, days, ones, ones))
    kept = people[(days > 0) & sample.may_hold(people)]
    assert set(sample.members["key"]) <= set(sample.keys(kept).tolist())
    assert set(sample.members["x"]) <= {0, 1}
