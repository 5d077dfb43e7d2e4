"""A shard holds what its events say, whatever fails in between and however often."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes import (
    FULL_IN_FLIGHT,
    START_SECONDS,
    World,
    as_chunk,
    as_record,
    customers_of,
    run_quickly,
    settle,
    shard_settings,
)
from tests.unit.streams.helpers import (
    History,
    answer,
    check_everything,
    order,
    stored_rows,
    visit,
)
from valuetide.schemas.errors import FaultError
from valuetide.schemas.topics import INPUTS
from valuetide.streams.chunk import Chunk, Record
from valuetide.streams.publish import BrokerUnavailableError
from valuetide.streams.shard import QUEUED_BATCHES_HIGH
from valuetide.streams.shard_memory import settings_mark
from valuetide.streams.sorting_out import REROUTED_HEADER
from valuetide.streams.store import Commit, StoreUnavailableError
from valuetide.streams.store.memory import MemoryStore
from valuetide.streams.turns import LIVE_SECONDS

ANN, BOB, CEM = customers_of(0, 4, 3)
(STRANGER,) = customers_of(1, 4, 1)


def away(times: int, what: str = "away") -> Callable[..., Any]:
    """Give a hook that fails so many times."""
    left = [times]

    async def hook(*arguments: object) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise StoreUnavailableError(what)

    return hook


async def steal(world: World) -> None:
    """Make a commit as another worker, which changes nothing but the sequence."""
    record = await world.record()
    fields: dict[str, str | int] = {"settings": settings_mark(world.settings)}
    commit = Commit(0, record.sequence + 1, "thief", fields, {}, [], [], [], {})
    await MemoryStore.commit(world.store, commit)


def kinds(world: World, *names: str) -> list[str]:
    return [entry[0] for entry in world.trace if entry[0] in names]


# -- what a chunk does ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1, 3, 10, 1_000]))
def test_the_state_after_chunks_is_that_of_the_reference(seed: int, size: int) -> None:
    async def scenario() -> None:
        world, history = World(), History()
        history.fill(world, random.Random(seed), 150)
        await world.shard.open()
        await world.drain(most=size)
        await check_everything(world, history)
        assert await world.shard.close(1.0)

    run_quickly(scenario())


def test_scores_are_acknowledged_before_the_commit_is_made() -> None:
    async def scenario() -> None:
        world = World()
        world.sender.at_once = False
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 1)]))
        await settle()
        assert kinds(world, "send", "commit") == ["send"]
        world.sender.deliver(0)
        await settle()
        assert kinds(world, "send", "delivered", "commit", "committed") == [
            "send",
            "delivered",
            "commit",
            "committed",
        ]
        sent = world.sender.calls[0]
        assert (sent.topic, sent.partition, sent.keys) == ("scores", 0, [ANN.encode()])
        assert world.shard.committed["orders"] == 1
        await world.shard.close(1.0)

    run_quickly(scenario())


def test_later_chunks_are_folded_while_an_earlier_one_is_published() -> None:
    """And commits keep the order of the chunks, though the acknowledgements do not."""

    async def scenario() -> None:
        world = World(settings=shard_settings(max_batches_in_flight=3))
        world.sender.at_once = False
        await world.shard.open()
        for at in range(5):
            world.shard.submit(as_chunk([order(ANN, at)], at=at))
            await settle()
        assert [score["version"] for score in world.sender.scores] == [1, 2, 3]
        assert world.shard.sequence == 3
        assert kinds(world, "commit") == []
        world.sender.deliver(2)
        world.sender.deliver(1)
        await settle()
        assert kinds(world, "commit") == []
        world.sender.deliver(0)
        await settle()
        commits = [entry[1] for entry in world.trace if entry[0] == "committed"]
        assert commits == [1, 2, 3]
        # What had to wait is one batch.
        assert [score["version"] for score in world.sender.scores] == [1, 2, 3, 5]
        world.sender.deliver(3)
        await settle()
        assert (await world.record()).sequence == 4
        assert stored_rows(world)[ANN]["version"] == 5
        assert await world.shard.close(1.0)

    run_quickly(scenario())


def test_few_full_batches_wait_for_the_network_beside_live_shards_also_after_a_failure() -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(max_batches_in_flight=9, max_batch_events=1))
        world.sender.at_once = False
        world.turns.live(7)  # another shard
        await world.shard.open()
        for at in range(FULL_IN_FLIGHT + 2):
            world.shard.submit(as_chunk([order(ANN, at)], at=at))
        await settle()
        assert len(world.sender.scores) == FULL_IN_FLIGHT
        world.sender.deliver(0, BrokerUnavailableError("away"))
        await asyncio.sleep(1)
        sent = len(world.sender.scores)
        for at in range(FULL_IN_FLIGHT + 2):
            world.shard.submit(as_chunk([order(ANN, at)], at=at, epoch=world.shard.epoch))
        await settle()
        assert len(world.sender.scores) == sent + FULL_IN_FLIGHT
        assert not await world.shard.close(0.1)

    run_quickly(scenario())


def test_with_nobody_live_the_shard_is_kept_busy() -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(max_batches_in_flight=9, max_batch_events=1))
        world.sender.at_once = False
        await world.shard.open()
        for at in range(FULL_IN_FLIGHT + 2):
            world.shard.submit(as_chunk([order(ANN, at)], at=at))
        await settle(100)
        assert len(world.sender.scores) == FULL_IN_FLIGHT + 2
        assert not await world.shard.close(0.1)

    run_quickly(scenario())


@pytest.mark.parametrize(
    ("more", "room"),
    [
        ((False, False), 2),
        ((False, False, True), 8),
        ((True, False), 8),
        ((False, True), 8),
        ((False,), 8),
    ],
)
def test_batches_are_smaller_beside_a_shard_that_stays_up_to_date(
    more: tuple[bool, ...], room: int
) -> None:
    """One that has just caught up is not taken for one, nor is one that has fallen behind."""

    async def scenario() -> None:
        world = World()
        await world.shard.open()
        for at, behind in enumerate((True, *more)):
            world.shard.submit(replace(as_chunk([order(ANN, at)], at=at), more=behind))
            await settle()
        assert world.turns.room(8) == room
        await asyncio.sleep(LIVE_SECONDS + 0.1)
        assert world.turns.room(8) == 8
        assert await world.shard.close(1.0)

    run_quickly(scenario())


def test_what_waits_of_all_topics_is_one_batch_up_to_the_most() -> None:
    """Each commit has the positions that its batch led to; of a topic the order is kept."""

    async def scenario() -> None:
        world = World(settings=shard_settings(max_batch_events=5, max_batches_in_flight=1))
        commits: list[tuple[object, object, list[str]]] = []

        async def note(commit: Commit) -> None:
            fields = commit.fields
            places = fields["offset:orders"], fields["offset:interactions"]
            commits.append((*places, sorted(commit.ids)))

        world.store.before_commit = note
        await world.shard.open()
        for at in range(0, 12, 2):
            world.shard.submit(as_chunk([order(ANN, at), order(BOB, at + 1)], at=at))
            world.shard.submit(as_chunk([visit(CEM, 100 + at)], role="interactions", at=at // 2))
        await settle(200)
        every = sorted([ANN, BOB, CEM])
        # Of 5 places the 2 orders of a chunk take 2 and its visit 1; what is left takes what fits.
        assert commits == [(4, 1, every), (6, 4, every), (10, 5, every), (12, 6, every)]
        fields = (await world.record()).fields
        assert fields["count:orders:folded"] == "12"
        assert fields["count:interactions:folded"] == "6"
        rows = stored_rows(world)
        assert [rows[who]["version"] for who in (ANN, BOB, CEM)] == [6, 6, 6]
        sizes = "valuetide_batch_events_sum"
        for topic, events in (("orders", 12), ("interactions", 6)):
            assert world.metrics.registry.get_sample_value(sizes, {"topic": topic}) == events
        await world.shard.close(1.0)

    run_quickly(scenario())


def test_a_batch_of_all_topics_is_undone_and_done_again_as_one() -> None:
    """What it read, counted and sent out of any topic is as if it had never failed."""

    async def scenario() -> None:
        world = World()
        world.store.before_commit = away(1)
        await world.shard.open()
        world.flow.add("orders", order(ANN, 1))
        world.flow.add("orders", b"bad")
        world.flow.add("interactions", visit(ANN, 2))
        world.flow.add("interactions", visit(STRANGER, 3))
        world.flow.add("feedback", answer(BOB, 4))
        world.flow.add("feedback", None)
        await world.drain()
        assert [entry for entry in world.trace if entry[0] == "commit"] == [("commit", 1)] * 2
        fields = (await world.record()).fields
        outcomes = ("folded", "dead_letter", "rerouted")
        counts = {role: [int(fields[f"count:{role}:{o}"]) for o in outcomes] for role in INPUTS}
        assert counts == {"orders": [1, 1, 0], "interactions": [1, 0, 1], "feedback": [1, 1, 0]}
        assert len(world.sender.others("dead-letters")) == 2
        assert len(world.sender.others("interactions")) == 1
        ((positions, _),) = world.flow.rewinds
        assert positions == dict.fromkeys(INPUTS, 0)
        assert world.shard.committed == dict.fromkeys(INPUTS, 2) == world.shard.positions
        assert stored_rows(world)[ANN]["version"] == 2

    run_quickly(scenario())


def test_records_below_the_position_are_skipped() -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        events = [order(ANN, number) for number in range(20)]
        world.shard.submit(as_chunk(events[:5]))
        world.shard.submit(as_chunk(events[2:9], at=2))
        world.shard.submit(as_chunk(events[15:], at=15))
        world.shard.submit(as_chunk(events[10:], at=10))
        await settle(100)
        record = await world.record()
        assert record.fields["count:orders:folded"] == "14"
        assert record.fields["count:orders:duplicate"] == "0"
        assert record.fields["offset:orders"] == "20"
        assert record.sequence == 3
        await world.shard.close(1.0)

    run_quickly(scenario())


def test_a_topic_made_anew_is_noticed_though_more_of_it_waits() -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(lost_positions="earliest", max_batches_in_flight=1))
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, number) for number in range(10)]))
        await settle(100)
        world.sender.at_once = False
        world.shard.submit(as_chunk([order(ANN, 10)], at=10))
        await settle(100)
        world.shard.submit(as_chunk([order(BOB, 20 + number) for number in range(6)], at=0))
        world.shard.submit(as_chunk([order(BOB, 26 + number) for number in range(6)], at=6))
        world.sender.at_once = True
        world.sender.deliver(len(world.sender.calls) - 1)
        await settle(200)
        assert stored_rows(world)[BOB]["orders"] == 12
        await world.shard.close(1.0)

    run_quickly(scenario())


@pytest.mark.parametrize("lost_positions", ["stop", "earliest"])
def test_a_topic_that_was_made_anew_is_a_fault_unless_that_is_accepted(lost_positions: str) -> None:
    """A chunk of our epoch that lies below our position: the position is gone from the topic."""

    async def scenario() -> None:
        world = World(settings=shard_settings(lost_positions=lost_positions))
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, number) for number in range(5)], at=50))
        world.shard.submit(as_chunk([order(ANN, 5), order(ANN, 6)]))
        await settle()
        fields = (await world.record()).fields
        if lost_positions == "earliest":
            assert (fields["count:orders:folded"], fields["offset:orders"]) == ("7", "2")
        else:
            (fault,) = world.faults
            assert "orders, partition 0: there is nothing at offset 55" in str(fault)
            assert (fields["count:orders:folded"], fields["offset:orders"]) == ("5", "55")
            assert not await world.shard.close(1.0)

    run_quickly(scenario())


def test_chunks_of_another_epoch_are_ignored() -> None:
    async def scenario() -> None:
        world = World()
        world.shard.epoch = 3
        world.shard.submit(as_chunk([order(ANN, 1)], epoch=3))  # not open yet
        await world.shard.open()
        for epoch in (0, 2, 4):
            world.shard.submit(as_chunk([order(ANN, 1)], epoch=epoch))
        await settle()
        assert world.shard.idle
        assert (await world.record()).sequence == 0
        world.shard.submit(as_chunk([order(ANN, 1)], epoch=3))
        await settle()
        assert (await world.record()).sequence == 1
        await world.shard.close(1.0)
        world.shard.submit(as_chunk([order(ANN, 2)], at=1, epoch=3))
        assert world.shard.idle

    run_quickly(scenario())


def test_duplicates_are_counted_and_change_nothing() -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 1), order(ANN, 1), order(ANN, 2)]))
        world.shard.submit(as_chunk([order(ANN, 2), order(ANN, 1)], at=3))
        await settle()
        fields = (await world.record()).fields
        assert (fields["count:orders:folded"], fields["count:orders:duplicate"]) == ("2", "3")
        assert stored_rows(world)[ANN]["revenue"] == 20.0
        assert (await world.record()).months == {"2023-11": "2 2000 0 0 0 0"}
        await world.shard.close(1.0)

    run_quickly(scenario())


def test_wall_time_and_event_time_both_reach_the_scores() -> None:
    async def scenario(mode: str, wanted: str) -> None:
        world = World(settings=shard_settings(clock=mode))
        world.wall.seconds = START_SECONDS + 86_400
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 0)]))
        await settle()
        assert stored_rows(world)[ANN]["as_of"] == wanted
        assert stored_rows(world)[ANN]["recency_days"] == (1.0 if mode == "wall" else 0.0)
        await world.shard.close(1.0)

    run_quickly(scenario("wall", "2023-11-15T22:13:20.000Z"))
    run_quickly(scenario("event", "2023-11-14T22:13:20.000Z"))


# -- what belongs elsewhere, and what belongs nowhere ---------------------------------------------


def test_an_event_in_the_wrong_partition_is_republished_once_and_folded_there() -> None:
    async def scenario() -> None:
        here, there = World(), World(partition=1)
        for world in (here, there):
            await world.shard.open()
        lost = as_record(order(STRANGER, 7), 1, [("trace", b"\xff\x00")], keyed=False)
        ours = as_record(order(ANN, 8), 2, keyed=False)
        here.shard.submit(Chunk("orders", 0, [as_record(order(ANN, 6), 0), lost, ours]))
        await settle()
        (sent,) = here.sender.others("orders")
        assert (sent.partition, sent.key, sent.value) == (1, STRANGER.encode(), lost.value)
        assert sent.headers == (("trace", b"\xff\x00"), (REROUTED_HEADER, b"orders/0/1"))
        fields = (await here.record()).fields
        assert (fields["count:orders:folded"], fields["count:orders:rerouted"]) == ("2", "1")
        assert stored_rows(here).keys() == {ANN}

        there.shard.submit(Chunk("orders", 1, [as_record(order(STRANGER, 7), 0, sent.headers)]))
        await settle()
        assert stored_rows(there)[STRANGER]["orders"] == 1
        assert there.sender.others("orders") == there.sender.others("dead-letters") == []

    run_quickly(scenario())


def test_an_event_that_was_already_republished_goes_to_the_dead_letters() -> None:
    async def scenario() -> None:
        world = World()
        world.wall.seconds = START_SECONDS
        await world.shard.open()
        headers = [(REROUTED_HEADER, b"orders/3/9"), ("trace", b"7")]
        record = as_record(order(STRANGER, 1), 5, headers)
        world.shard.submit(Chunk("orders", 0, [record]))
        await settle()
        (letter,) = world.sender.others("dead-letters")
        assert (letter.key, letter.value) == (record.key, record.value)
        found = {name: text.decode() for name, text in letter.headers}
        reason = found.pop("reason")
        assert reason.startswith("customer_id: belongs in partition 1, and was already")
        assert STRANGER not in reason
        assert found == {
            "source_topic": "orders",
            "source_partition": "0",
            "source_offset": "5",
            "rejected_at": "2023-11-14T22:13:20+00:00",
        }
        assert world.sender.others("orders") == []
        fields = (await world.record()).fields
        assert (fields["count:orders:dead_letter"], fields["offset:orders"]) == ("1", "6")

    run_quickly(scenario())


def test_dead_letters_carry_the_original_bytes_and_every_reason() -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        values = [b"\xff\x00not json", None, b"{}", b'{"a"', b"[" * 1_000, b"x" * 300_000]
        records = [as_record(value, offset) for offset, value in enumerate(values)]
        records.append(as_record(order(ANN, 1, amount=-1.0), len(values)))
        world.shard.submit(Chunk("orders", 0, records))
        await settle()
        letters = world.sender.others("dead-letters")
        assert {letter.value for letter in letters} == {record.value for record in records}
        by_offset = {int(dict(letter.headers)["source_offset"]): letter for letter in letters}
        assert [by_offset[r.offset].value for r in records] == [r.value for r in records]
        reason = dict(by_offset[len(values)].headers)["reason"].decode()
        assert reason.startswith("amount: ")
        assert by_offset[len(values)].key == ANN.encode()
        assert (await world.record()).sequence == 1
        registry = world.metrics.registry
        label = {"topic": "orders", "outcome": "dead_letter"}
        assert registry.get_sample_value("valuetide_events_total", label) == len(records)
        amount = registry.get_sample_value("valuetide_dead_letters_total", {"reason": "amount"})
        assert amount == 1

    run_quickly(scenario())


# -- failures, one at a time ----------------------------------------------------------------------


async def filled(world: World, number: int = 40) -> History:
    history = History()
    history.fill(world, random.Random(number), number)
    await world.shard.open()
    return history


def test_a_refused_commit_goes_back_to_what_the_store_has() -> None:
    async def scenario() -> None:
        world = World()
        history = await filled(world, 200)
        world.store.before_commit = None
        refused: list[int] = []

        async def steal_the_third(commit: Commit) -> None:
            if commit.sequence == 3 and not refused:
                refused.append(commit.sequence)
                await steal(world)

        world.store.before_commit = steal_the_third
        await world.drain(most=9)
        assert refused == [3]
        ((positions, epoch),) = world.flow.rewinds
        second = next(i for i, entry in enumerate(world.trace) if entry == ("committed", 2))
        assert ("committed", 3) not in world.trace  # the thief's was never ours
        assert second < world.trace.index(("rewind", positions, epoch))
        assert epoch == world.shard.epoch == 1
        assert sum(positions.values()) > 0
        await check_everything(world, history)
        registry = world.metrics.registry
        assert registry.get_sample_value("valuetide_commits_total", {"outcome": "refused"}) == 1
        assert registry.get_sample_value("valuetide_recoveries_total") == 1

    run_quickly(scenario())


@pytest.mark.parametrize("lost_positions", ["stop", "earliest"])
def test_a_state_that_is_gone_is_a_fault_unless_that_is_accepted(lost_positions: str) -> None:
    """Redis came back empty: going on as if nothing had happened would count from nothing."""

    async def scenario() -> None:
        world = World(settings=shard_settings(lost_positions=lost_positions))
        history = await filled(world, 200)
        lost: list[int] = []

        async def lose(commit: Commit) -> None:
            if commit.sequence == 3 and not lost:
                lost.append(commit.sequence)
                world.store.shards.clear()

        world.store.before_commit = lose
        if lost_positions == "earliest":
            await world.drain(most=9)
            assert world.flow.rewinds[0][0] == dict.fromkeys(INPUTS, 0)
            await check_everything(world, history)
        else:
            with pytest.raises(FaultError, match=r"partition 0: Redis has no state, .* commit 2"):
                await world.drain(most=9)
            assert (await world.record()).sequence == 0

    run_quickly(scenario())


@pytest.mark.parametrize("where", ["before_commit", "before_read_states", "after_commit"])
def test_a_store_that_is_away_for_a_while_costs_nothing_but_time(where: str) -> None:
    async def scenario() -> None:
        world = World()
        history = await filled(world, 200)
        world.store.before_read_shard = away(6)
        setattr(world.store, where, away(4))
        await world.drain(most=9)
        assert len(world.flow.rewinds) >= 4
        assert world.faults == []
        await check_everything(world, history)

    run_quickly(scenario())


@pytest.mark.parametrize("where", ["send", "delivery"])
def test_a_broker_that_refuses_loses_and_doubles_nothing(where: str) -> None:
    async def scenario() -> None:
        world = World()
        history = await filled(world, 200)
        left = [5]

        def fail() -> BrokerUnavailableError | None:
            left[0] -= 1
            return BrokerUnavailableError("away") if left[0] in (0, 2, 3) else None

        async def before_send() -> None:
            if error := fail():
                raise error

        if where == "send":
            world.sender.before_send = before_send
        else:
            world.sender.on_delivery = lambda sent: fail()
        await world.drain(most=9)
        assert len(world.flow.rewinds) >= 2
        await check_everything(world, history)

    run_quickly(scenario())


def test_a_commit_of_ours_that_arrives_late_is_not_taken_for_a_newer_one() -> None:
    """A commit times out, yet lies in the server's buffer and is made after we have read.

    The next commit has its sequence number and comes from the same worker, but has other content:
    it must be refused, for what it holds is not what the store has.
    """

    async def scenario() -> None:
        world = World()
        history = History()
        for number in range(4):
            event = order((ANN, BOB, CEM, ANN)[number], number)
            world.flow.add("orders", event)
            history.accepted[event["customer_id"]].append(("orders", event))
            history.outcomes["orders", "folded"] += 1
        await world.shard.open()
        late: list[Commit] = []

        async def time_out_once(commit: Commit) -> None:
            if not late:
                late.append(commit)
                raise StoreUnavailableError("no answer within 30 s")

        async def arrive_now() -> None:
            if late and len(late) == 1:
                late.append(late[0])
                await MemoryStore.commit(world.store, late[0])

        world.store.before_commit = time_out_once
        world.flow.before_rewind = arrive_now  # it runs after the record was read
        chunk = world.flow.fetch("orders", 2)
        assert chunk is not None
        world.shard.submit(chunk)
        await asyncio.sleep(1)
        assert len(late) == 2
        await world.drain(most=4)
        await check_everything(world, history)

    run_quickly(scenario())


def test_a_store_that_stays_away_stops_the_worker() -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(retry_seconds=0))
        await world.shard.open()
        world.store.before_read_states = world.store.before_read_shard = away(1_000, "gone")
        world.shard.submit(as_chunk([order(ANN, 1)]))
        await asyncio.sleep(30)
        assert [str(fault) for fault in world.faults] == ["gone"]
        assert not await world.shard.close(1.0)

    run_quickly(scenario())


def test_a_store_that_reads_but_does_not_write_stops_the_worker() -> None:
    """Out of memory, or a replica: without an end the same scores would go out for ever."""

    async def scenario() -> None:
        world = World(settings=shard_settings(retry_seconds=0))
        world.flow.add("orders", order(ANN, 1))
        await world.shard.open()
        world.store.before_commit = away(1_000_000, "OOM command not allowed")
        for _ in range(200):
            if chunk := world.flow.fetch("orders", 10):
                world.shard.submit(chunk)
            await asyncio.sleep(0.1)
        assert [str(fault) for fault in world.faults] == ["OOM command not allowed"]
        assert not await world.shard.close(1.0)

    run_quickly(scenario())


def test_failures_that_a_commit_lies_between_do_not_add_up() -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(retry_seconds=0))
        history = await filled(world, 100)
        failed: set[int] = set()

        async def every_other(commit: Commit) -> None:
            if commit.sequence % 2 and commit.sequence not in failed:
                failed.add(commit.sequence)
                raise StoreUnavailableError("hiccup")

        world.store.before_commit = every_other
        await world.drain(most=7)
        assert len(failed) >= 3
        await check_everything(world, history)

    run_quickly(scenario())


def test_a_state_that_cannot_be_read_is_a_fault() -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 1)]))
        await settle()
        await world.shard.close(1.0)
        world.store.shards[0].states[ANN] = b"\x63 nonsense"
        shard = world.make_shard("next")
        await shard.open()
        shard.submit(as_chunk([order(ANN, 2)], at=1))
        await settle()
        (fault,) = world.faults
        assert isinstance(fault, FaultError)
        assert "partition 0: a customer's state in Redis cannot be read" in str(fault)
        assert ANN not in str(fault)
        assert (await world.record()).sequence == 1

    run_quickly(scenario())


def test_memory_is_not_trusted_after_a_fault() -> None:
    """A chunk that was half done must be done again, should the shard be opened once more."""

    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 1)]))
        await settle()

        async def explode(ids: object) -> None:
            raise FaultError("boom")

        world.store.before_read_states = explode
        world.shard.submit(as_chunk([order(BOB, 2)], at=1))
        await settle()
        assert [str(fault) for fault in world.faults] == ["boom"]
        assert not await world.shard.close(1.0)
        world.store.before_read_states = None
        await world.shard.open()
        assert world.shard.positions["orders"] == 1
        world.shard.submit(as_chunk([order(BOB, 2)], at=1))
        await settle()
        assert stored_rows(world).keys() == {ANN, BOB}

    run_quickly(scenario())


@pytest.mark.parametrize(
    "changed",
    [{"half_life_days": 60}, {"partitions": 8}, {"vocabulary": {"base_currency": "USD"}}],
)
def test_a_state_of_other_settings_is_a_fault(changed: dict[str, Any]) -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 1)]))
        await settle()
        await world.shard.close(1.0)
        world.settings = shard_settings(**changed)
        assert settings_mark(world.settings) != settings_mark(shard_settings())
        with pytest.raises(FaultError, match="was made with partitions=4 half_life_days=90"):
            await world.make_shard().open()

    run_quickly(scenario())


def test_open_says_when_the_store_is_away() -> None:
    async def scenario() -> None:
        world = World()
        world.store.before_read_shard = away(1)
        with pytest.raises(StoreUnavailableError):
            await world.shard.open()
        await world.shard.open()

    run_quickly(scenario())


# -- close and open again -------------------------------------------------------------------------


def test_close_waits_for_what_is_in_flight_and_forgets_the_queue() -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(max_batches_in_flight=2, max_batch_events=1))
        world.sender.at_once = False
        await world.shard.open()
        for at in range(4):
            world.shard.submit(as_chunk([order(ANN, at)], at=at))
        await settle()
        closing = asyncio.create_task(world.shard.close(60.0))
        await settle()
        assert not closing.done()
        world.sender.deliver(0)
        world.sender.deliver(1)
        assert await closing
        assert (await world.record()).fields["offset:orders"] == "2"
        assert world.shard.idle
        assert stored_rows(world)[ANN]["orders"] == 2

    run_quickly(scenario())


def test_close_gives_up_in_time_and_then_nothing_in_memory_counts() -> None:
    async def scenario() -> None:
        world = World()
        world.sender.at_once = False
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 0)]))
        await settle()
        assert not await world.shard.close(0.5)
        world.sender.deliver(0)
        await settle()
        assert (await world.record()).sequence == 0
        assert world.shard.in_memory == 0
        world.sender.at_once = True
        world.shard.epoch += 1
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 0)], epoch=1))
        await settle()
        assert stored_rows(world)[ANN]["version"] == 1

    run_quickly(scenario())


def test_memory_is_kept_over_close_and_open_when_nobody_wrote_in_between() -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 0)]))
        await settle()
        assert await world.shard.close(1.0)
        await world.shard.open()
        assert world.shard.in_memory == 1
        world.trace.clear()
        world.shard.submit(as_chunk([order(ANN, 1)], at=1))
        await settle()
        assert kinds(world, "read_states") == []
        assert stored_rows(world)[ANN]["version"] == 2
        assert (await world.record()).sequence == 2
        assert world.flow.rewinds == []

    run_quickly(scenario())


def test_memory_is_read_again_when_somebody_wrote_in_between() -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 0)]))
        await settle()
        assert await world.shard.close(1.0)
        other = world.make_shard("other")
        await other.open()
        other.submit(as_chunk([order(ANN, 1), order(BOB, 2)], at=1))
        await settle()
        assert await other.close(1.0)

        await world.shard.open()
        assert world.shard.in_memory == 0
        assert world.shard.positions["orders"] == 3
        world.shard.submit(as_chunk([order(ANN, 3)], at=3))
        await settle()
        assert stored_rows(world)[ANN]["version"] == 3
        assert (await world.record()).fields["total:revenue"] == "4000"

    run_quickly(scenario())


def test_a_worker_that_lost_its_shard_unknowingly_changes_nothing() -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 0)]))
        await settle()
        other = world.make_shard("other")
        await other.open()
        other.submit(as_chunk([order(ANN, 1)], at=1))
        await settle()
        world.shard.submit(as_chunk([order(ANN, 1)], at=1))
        await asyncio.sleep(1)
        assert stored_rows(world)[ANN]["version"] == 2
        assert (await world.record()).sequence == 2
        assert world.flow.rewinds == [({"orders": 2, "interactions": 0, "feedback": 0}, 1)]
        assert world.shard.in_memory == 0
        assert world.faults == []

    run_quickly(scenario())


# -- memory and back-pressure ---------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32), limit=st.sampled_from([0, 1, 5]))
def test_eviction_changes_no_result(seed: int, limit: int) -> None:
    async def scenario() -> None:
        world, history = World(memory_limit=limit), History()
        history.fill(world, random.Random(seed), 200)
        await world.shard.open()
        await world.drain(most=6)
        await check_everything(world, history)
        assert world.shard.in_memory <= limit + 6
        assert len(history.accepted) > limit + 6

    run_quickly(scenario())


@pytest.mark.parametrize("half_life", [30, 90])
def test_a_ranked_customer_that_falls_after_it_was_read_again_falls_in_rank(half_life: int) -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(half_life_days=half_life))
        world.store.top_size = 2
        await world.shard.open()
        events = [order(ANN, 1, amount=100.0), order(BOB, 2, amount=50.0), order(CEM, 3, amount=1)]
        world.shard.submit(as_chunk(events))
        await settle()
        before = dict(world.store.shards[0].top["decayed_value"])
        assert before.keys() == {ANN, BOB}
        await world.shard.close(1.0)

        other = world.make_shard("other")
        await other.open()
        other.submit(as_chunk([order(CEM, 4, amount=0.01)], at=3))  # its answer tells the floor
        await settle()
        back = order(ANN, 5, kind="returned", order_id="o1", amount=99.99)
        other.submit(as_chunk([back], at=4))
        await settle()
        after = world.store.shards[0].top["decayed_value"]
        assert after.get(ANN, 0.0) < before[ANN] - 10
        await other.close(1.0)

    run_quickly(scenario())


def test_a_full_queue_pauses_fetching_and_an_emptier_one_resumes_it() -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(max_batches_in_flight=1, max_batch_events=4))
        world.sender.at_once = False
        await world.shard.open()
        for at in range(4 * QUEUED_BATCHES_HIGH + 1):
            assert not world.flow.paused
            world.shard.submit(replace(as_chunk([order(ANN, at)], at=at), more=True))
            await settle(3)
        assert world.flow.paused
        for call in range(QUEUED_BATCHES_HIGH):
            assert world.flow.paused
            world.sender.deliver(call)
            await settle()
        assert not world.flow.paused
        assert kinds(world, "pause", "resume") == ["pause", "resume"]
        assert not await world.shard.close(0.1)

    run_quickly(scenario())


def test_the_number_of_queued_events_is_known_without_counting_them() -> None:
    """Ten thousand small chunks may wait while the store is away; each would count all others."""

    class Records(list[Record]):
        asked = 0

        def __len__(self) -> int:
            Records.asked += 1
            return super().__len__()

    async def scenario() -> None:
        world = World(settings=shard_settings(max_batch_events=100))
        await world.shard.open()
        for at in range(150):
            chunk = as_chunk([order(ANN, at)], at=at)
            world.shard.submit(replace(chunk, records=Records(chunk.records)))
        assert Records.asked <= 2 * 150
        await settle()
        assert world.shard.idle
        assert not world.flow.paused
        assert await world.shard.close(1.0)

    run_quickly(scenario())


@pytest.mark.parametrize("how", ["close", "failure"])
def test_a_paused_partition_is_resumed_when_the_queue_is_dropped(how: str) -> None:
    async def scenario() -> None:
        world = World(settings=shard_settings(max_batches_in_flight=1, max_batch_events=4))
        world.sender.at_once = False
        await world.shard.open()
        for at in range(4 * QUEUED_BATCHES_HIGH + 2):
            world.shard.submit(as_chunk([order(ANN, at)], at=at))
            await settle(3)
        assert world.flow.paused
        if how == "close":
            await world.shard.close(0.1)
        else:
            world.sender.deliver(0, BrokerUnavailableError("away"))
            await asyncio.sleep(1)
            assert world.shard.idle
        assert not world.flow.paused

    run_quickly(scenario())


# -- everything at once ---------------------------------------------------------------------------


FIRST_TROUBLE = 5


class Trouble:
    """Fails at random wherever a shard waits for somebody else."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.rate = 0.12
        self.chances = self.failures = 0
        self.late: list[asyncio.Task[None]] = []
        world.store.before_read_shard = world.store.before_read_states = self.store
        world.store.before_commit = self.commit
        world.store.after_commit = self.store
        world.sender.before_send = self.send
        world.sender.at_once = False
        world.flow.before_rewind = self.pause

    def happens(self) -> bool:
        self.chances += 1
        # Once at least, whatever the seed.
        unlucky = self.rng.random() < self.rate or self.chances == FIRST_TROUBLE
        self.failures += unlucky
        return unlucky

    async def pause(self) -> None:
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.choice((0, 0.001, 0.02)))

    async def store(self, *arguments: object) -> None:
        await self.pause()
        if self.happens():
            raise StoreUnavailableError("trouble")

    async def commit(self, commit: Commit) -> None:
        """Delay a commit, steal the shard, fail before, or fail though it is made: soon or late."""
        try:
            await self.pause()
        except asyncio.CancelledError:
            if self.rng.random() < 0.5:  # it was on its way already
                self.late.append(asyncio.create_task(self.arrive(commit)))
            raise
        if self.rng.random() < self.rate / 3:
            await steal(self.world)
        if self.happens():
            if self.rng.random() < 0.5:
                self.late.append(asyncio.create_task(self.arrive(commit)))
            raise StoreUnavailableError("trouble")

    async def arrive(self, commit: Commit) -> None:
        await asyncio.sleep(self.rng.choice((0, 0.01, 0.06, 0.2)))
        try:
            await MemoryStore.commit(self.world.store, commit)
        except Exception as error:
            assert "is at commit" in str(error)

    async def send(self) -> None:
        await self.pause()
        if self.happens():
            raise BrokerUnavailableError("trouble")
        number = len(self.world.sender.calls)
        asyncio.get_running_loop().call_later(
            self.rng.choice((0, 0, 0.001, 0.03)), self.deliver, number
        )

    def deliver(self, number: int) -> None:
        error = BrokerUnavailableError("trouble") if self.happens() else None
        if number < len(self.world.sender.calls):
            self.world.sender.deliver(number, error)


async def restart(world: World, rng: random.Random) -> None:
    """Close the shard, and open it or another worker's, as an engine would."""
    await world.shard.close(rng.choice((0.0, 0.01, 5.0)))
    if rng.random() < 0.4:
        world.shard = world.make_shard(rng.choice((world.writer, "second", "third")))
    while True:
        try:
            await world.shard.open()
        except StoreUnavailableError:
            continue
        break
    world.shard.reposition()
    world.flow.at, world.flow.epoch = dict(world.shard.positions), world.shard.epoch


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_each_event_counts_once_whatever_fails(seed: int) -> None:
    """Errors before and after every step, commits that arrive late, thefts, closes, restarts."""
    rng = random.Random(seed)

    async def scenario() -> None:
        limit = rng.choice((2, 10, 1_000_000))
        in_flight = rng.choice((1, 2, 4))
        world = World(settings=shard_settings(max_batches_in_flight=in_flight), memory_limit=limit)
        history = History()
        history.fill(world, rng, 200)
        trouble = Trouble(world, rng)
        await restart(world, rng)
        for _ in range(120):
            role = rng.choice(INPUTS)
            if chunk := world.flow.fetch(role, rng.choice((1, 4, 20))):
                world.shard.submit(chunk)
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice((0, 0, 0.01, 0.1)))
            if rng.random() < 0.03:
                await restart(world, rng)
        trouble.rate = 0.0
        await asyncio.sleep(5)
        await asyncio.gather(*trouble.late)
        await world.drain(most=15)
        assert world.faults == []
        assert trouble.failures > 0
        await check_everything(world, history, fenced=True)

    run_quickly(scenario())


def test_all_three_topics_meet_in_one_customer() -> None:
    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(as_chunk([order(ANN, 0)]))
        world.shard.submit(as_chunk([visit(ANN, 1), visit(ANN, 2)], role="interactions"))
        world.shard.submit(as_chunk([answer(ANN, 3)], role="feedback"))
        await settle(60)
        row = stored_rows(world)[ANN]
        assert (row["version"], row["profit"], row["cost_to_serve"]) == (4, 9.5, 0.5)
        fields = (await world.record()).fields
        offsets = {role: fields[f"offset:{role}"] for role in world.flow.logs}
        assert offsets == {"orders": "1", "interactions": "2", "feedback": "1"}
        assert fields["max_event_at"] == str((START_SECONDS + 3) * 1000)

    run_quickly(scenario())


@pytest.mark.parametrize("more", [True, False])
def test_a_commit_says_whether_the_topic_had_more_events(more: bool) -> None:
    """The watch over the series then knows a shard that stands still from one without news."""

    async def scenario() -> None:
        world = World()
        await world.shard.open()
        world.shard.submit(Chunk("orders", 0, [as_record(order(ANN, 0), 0)], 0, True))
        world.shard.submit(Chunk("orders", 0, [as_record(order(ANN, 1), 1)], 0, more))
        await settle()
        fields = (await world.record()).fields
        assert (fields["offset:orders"], fields["behind:orders"]) == ("2", str(int(more)))
        assert fields["behind:feedback"] == "0"
        assert await world.shard.close(1.0)

    run_quickly(scenario())
