"""What a fetch gives: what had lain ready, and what came since, each under its own epoch."""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition
from faust.types import TP

from tests.support.fakes import FakeRecord, run_quickly, shard_settings
from valuetide.streams.chunk import Chunk
from valuetide.streams.transport import ConsumerThread
from valuetide.streams.turns import SHARE_BESIDE_LIVE

PLACE, OTHER = TopicPartition("orders", 0), TopicPartition("orders", 1)
Fetched = dict[TopicPartition, list[FakeRecord]]


def records(*offsets: int) -> list[FakeRecord]:
    return [FakeRecord(b"k", b"v", offset) for offset in offsets]


def spans(chunks: list[Chunk]) -> list[tuple[int, list[int]]]:
    return [(chunk.epoch, [record.offset for record in chunk.records]) for chunk in chunks]


class Fetch:
    """One call of the thread's, against a client that answers with one after the other."""

    def __init__(self, *answers: Fetched | Exception | Callable[[], Fetched]) -> None:
        self.answers = list(answers)
        self.waits: list[float | None] = []
        self.faults: list[Exception] = []
        self.seconds = 0.0
        # By partition the position after the fetch, and the end that the broker has told.
        self.read: dict[TopicPartition, tuple[int, int | None]] = {}
        # What was fetched and not yet handed out, in the order in which it is looked at.
        self.kept: OrderedDict[TopicPartition, object] = OrderedDict()
        self.thread = cast("Any", object.__new__(ConsumerThread))
        loop = SimpleNamespace(call_soon_threadsafe=lambda report, fault: report(fault))
        self.thread.consumer = SimpleNamespace(held_back={TP(*OTHER)}, flow_active=True)
        self.thread.app = SimpleNamespace(
            settings=shard_settings(max_batch_events=3 * SHARE_BESIDE_LIVE),
            loop=loop,
            on_fault=self.faults.append,
        )
        self.thread._epochs = defaultdict(int)
        self.thread._check_due = float("inf")

    async def fetched_records(self, wanted: set[TP], **how: Any) -> Fetched:
        assert wanted == {TP(*PLACE)}
        self.waits.append(how["timeout"])
        await asyncio.sleep(self.seconds)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    async def __call__(self) -> dict[Any, list[Chunk]]:
        subscriptions = SimpleNamespace(fetch_context=nullcontext)
        fetcher = SimpleNamespace(
            fetched_records=self.fetched_records,
            _closed=False,
            _subscriptions=subscriptions,
            _records=self.kept,
        )
        self.fetcher = fetcher
        assigned = SubscriptionState()
        assigned.assign_from_user([PLACE, OTHER])
        for place, (position, end) in self.read.items():
            state = assigned.subscription.assignment.state_value(place)
            state.seek(position)
            state.highwater = end
        client = SimpleNamespace(_fetcher=fetcher, _closed=False, _subscription=assigned)
        found: dict[Any, list[Chunk]] = await self.thread._fetch_records(
            client, {TP(*PLACE), TP(*OTHER)}, timeout=1.0, max_records=100
        )
        self.kept = fetcher._records  # the thread puts its own in place of the client's
        return found


def test_what_lay_ready_comes_with_what_came_since() -> None:
    fetch = Fetch({PLACE: records(0, 1, 2, 3)}, {PLACE: records(4), OTHER: records(9)})
    chunks = run_quickly(fetch())
    assert spans(chunks[PLACE]) == [(0, [0, 1, 2]), (0, [3]), (0, [4])]
    assert spans(chunks[OTHER]) == [(0, [9])]
    assert fetch.waits[0] == 1.0
    assert 0.0 < float(fetch.waits[1] or 0.0) < 0.01


def test_a_chunk_knows_whether_it_is_the_last_that_there_is() -> None:
    def more(end: int | None, position: int = 4) -> list[bool]:
        fetch = Fetch({PLACE: records(0, 1, 2, 3)}, {})
        fetch.read = {PLACE: (position, end)}
        return [chunk.more for chunk in run_quickly(fetch())[PLACE]]

    assert more(4) == more(None) == [True, False]
    assert more(5) == [True, True]
    # The mark of a transaction lies after the last record, and has been read.
    assert more(5, position=5) == [True, False]


def test_a_partition_with_more_than_was_taken_is_looked_at_after_the_others() -> None:
    async def scenario() -> None:
        fetch = Fetch({PLACE: records(1, 2)}, {})
        fetch.kept.update({PLACE: "more", OTHER: "some"})
        await fetch()
        assert list(fetch.fetcher._records) == [OTHER, PLACE]

    run_quickly(scenario())


def test_what_was_waited_for_is_given_at_once() -> None:
    fetch = Fetch({PLACE: records(0)})
    fetch.seconds = 0.01
    assert spans(run_quickly(fetch())[PLACE]) == [(0, [0])]
    assert run_quickly(Fetch({})()) == {}


def test_a_position_set_in_between_parts_old_and_new_epoch() -> None:
    def after_a_seek() -> Fetched:
        fetch.thread._epochs[PLACE] = 5
        return {PLACE: records(0, 1)}

    fetch = Fetch({PLACE: records(7)}, after_a_seek)
    assert spans(run_quickly(fetch())[PLACE]) == [(0, [7]), (5, [0, 1])]


def test_an_error_behind_what_lay_ready_loses_none_of_it() -> None:
    gone = Fetch({PLACE: records(0)}, OffsetOutOfRangeError({OTHER: 7}))
    assert spans(run_quickly(gone())[PLACE]) == [(0, [0])]
    (fault,) = gone.faults
    assert "orders, partition 1: there is nothing at offset 7" in str(fault)
    unset = Fetch({PLACE: records(0)}, NoOffsetForPartitionError(PLACE))
    assert spans(run_quickly(unset())[PLACE]) == [(0, [0])]
    assert unset.faults == []
