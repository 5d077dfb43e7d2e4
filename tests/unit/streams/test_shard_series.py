"""Series of a shard: what is committed is what a count over the raw events gives."""

import random
from collections import defaultdict
from typing import Any

import pytest

from tests.support.fakes import START_SECONDS, World, customers_of, run_quickly, shard_settings
from tests.unit.streams.helpers import DAY_SECONDS, answer, order, visit
from valuetide.scoring.series import parse_cell, parse_name
from valuetide.streams.decode import Role
from valuetide.streams.store import Commit, StoreUnavailableError, WatchCommit
from valuetide.streams.trend_settings import SeriesSettings

Facts = tuple[Role, dict[str, Any]]
SERIES = SeriesSettings(dimensions=("channel", "source_code", "value_tier"))
HOUR_SECONDS = 3_600
ELEMENTS = {"web": "web", None: "unknown", "": "unknown", "kiosk": "other", "app": "app"}


def events(chance: random.Random, number: int, customers: list[str]) -> list[Facts]:
    """Events of all roles over three days, at most a dozen a customer."""
    found: list[Facts] = []
    for i in range(number):
        at = START_SECONDS - 3 * DAY_SECONDS + chance.randrange(3 * DAY_SECONDS * 1_000) / 1_000
        who = customers[i % len(customers)]
        named = {"occurred_at": at, "channel": chance.choice(list(ELEMENTS))}
        match chance.randrange(4):
            case 0:
                kind = chance.choice(("contact", "visit", "complaint"))
                found.append(("interactions", visit(who, i, kind=kind, **named)))
            case 1:
                subject = chance.choice(("us", None, "them"))
                values = {"score": chance.randint(1, 5), "subject": subject, "occurred_at": at}
                found.append(("feedback", answer(who, i, **values)))
            case _:
                kind = chance.choice(("placed", "placed", "returned", "cancelled"))
                code = chance.choice(("spring", "autumn", None))
                cents = chance.randrange(10_000)
                found.append(
                    ("orders", order(who, i, kind=kind, amount=cents / 100, source_code=code,
                                     **named))
                )  # fmt: skip
    return found


def by_hand(found: list[Facts]) -> dict[str, list[int]]:
    """Sums by the definition, new customers and tiers aside."""
    cells: dict[str, list[int]] = defaultdict(lambda: [0] * 11)
    hours: dict[str, list[int]] = defaultdict(lambda: [0] * 3)
    for role, event in found:
        day = int(event["occurred_at"] // DAY_SECONDS)
        names = [f"{day}d||"]
        if role != "feedback":
            names.append(f"{day}d|channel|{ELEMENTS[event['channel']]}")
            names.append(f"{day}d|source_code|{event.get('source_code') or 'unknown'}")
        for cell in (cells[name] for name in names):
            if role == "orders":
                cents = round(event["amount"] * 100)
                cell[0] += 1
                cell[1] += event["kind"] == "placed"
                cell[2] += cents * (event["kind"] == "placed")
                cell[3] += event["kind"] == "returned"
                cell[4] += cents * (event["kind"] == "returned")
            elif role == "interactions":
                cell[6] += 1
                cell[7] += event["kind"] != "visit"
            else:
                ours = event["subject"] != "them"
                cell[8] += 1
                cell[9] += ours
                cell[10] += ours * (event["score"] - 1) * 250_000
        hour = int(event["occurred_at"] // HOUR_SECONDS)
        hours[f"{hour}h|events|"][("orders", "interactions", "feedback").index(role)] += 1
    return {**cells, **hours}


async def cells_of(world: World) -> dict[str, list[int]]:
    found = {}
    for name, packed in (await world.record()).series.items():
        values = parse_cell(name, packed)
        if parse_name(name)[0][1] != "events":
            values += [0] * (11 - len(values))
        found[name] = values
    return found


@pytest.mark.parametrize("seed", range(6))
def test_committed_sums_are_those_of_the_raw_events_in_any_order_and_batches(seed: int) -> None:
    """With repeats of events, records that are none, and a commit that fails once."""

    async def main() -> None:
        chance = random.Random(seed)
        world = World(settings=shard_settings(series=SERIES))
        customers = customers_of(0, 4, 30)
        there = events(chance, 200, customers)
        sent = there + chance.choices(there, k=60)
        chance.shuffle(sent)
        for role, event in sent:
            world.flow.add(role, event)
            if chance.random() < 0.1:
                world.flow.add(role, b"no json")

        async def once(commit: Commit) -> None:
            if commit.sequence == 3:
                world.store.before_commit = None
                raise StoreUnavailableError("away")

        world.store.before_commit = once
        await world.shard.open()
        await world.drain(most=chance.choice((1, 7, 100)))
        found = await cells_of(world)

        wanted = by_hand(there)
        plain = {name: cell for name, cell in found.items() if "|value_tier|" not in name}
        new = {name: cell[5] for name, cell in plain.items() if "|events|" not in name}
        for name in new:
            plain[name][5] = 0
        assert plain == wanted
        # Segments of a bucket add up to the whole, where they have what it has.
        for day in {parse_name(name)[0][0] for name in new}:
            parts = [cell for name, cell in found.items() if name.startswith(f"{day}d|value_tier|")]
            assert [sum(column) for column in zip(*parts, strict=True)][:5] == wanted[f"{day}d||"][
                :5
            ]
            assert new[f"{day}d||"] == sum(
                many for name, many in new.items() if name.startswith(f"{day}d|channel|")
            )

    run_quickly(main())


def test_each_customer_is_new_once_and_moves_up_in_tiers() -> None:
    async def main() -> None:
        world = World(settings=shard_settings(series=SERIES))
        await world.shard.open()
        first, second = customers_of(0, 4, 2)
        for number, (who, amount) in enumerate([(first, 60), (first, 45), (second, 5), (first, 1)]):
            world.flow.add("orders", order(who, number, amount=float(amount)))
            await world.drain()
        day = START_SECONDS // DAY_SECONDS
        found = await cells_of(world)
        assert found[f"{day}d||"][:6] == [4, 4, 11_100, 0, 0, 2]
        tiers = {parse_name(name)[0][2]: cell[2] for name, cell in found.items() if "tier" in name}
        # Bounds are 50 and 100: the digit that the customer had before the order.
        assert tiers == {"new": 6_500, "2": 4_500, "3": 100}

    run_quickly(main())


@pytest.mark.parametrize("most", [1, 100])
def test_series_count_an_order_once_and_a_customer_once_as_the_state_does(most: int) -> None:
    async def main() -> None:
        world = World(settings=shard_settings(series=SERIES))
        await world.shard.open()
        (who,) = customers_of(0, 4, 1)
        for number in (1, 2, 3):  # the same order, sent again under other event ids
            world.flow.add("orders", order(who, number, order_id="o1", amount=50.0))
        await world.drain(most=most)
        total = (await world.record()).fields
        name = f"{START_SECONDS // DAY_SECONDS}d||"
        assert (await cells_of(world))[name][:6] == [3, 1, 5_000, 0, 0, 1]
        assert (total["total:orders"], total["total:revenue"]) == ("1", "5000")
        # After a cancellation the customer has no order left, but is not new again.
        world.flow.add("orders", order(who, 4, order_id="o1", kind="cancelled"))
        world.flow.add("orders", order(who, 5, order_id="o2", amount=20.0))
        await world.drain(most=most)
        assert (await cells_of(world))[name][:6] == [5, 2, 7_000, 0, 0, 1]

    run_quickly(main())


def test_what_comes_after_its_bucket_was_closed_is_counted_as_late() -> None:
    async def main() -> None:
        world = World(settings=shard_settings(model_refresh_seconds=0.001))
        await world.shard.open()
        (who,) = customers_of(0, 4, 1)
        day = START_SECONDS // DAY_SECONDS - 3
        for number in range(3):
            world.flow.add("orders", order(who, number, occurred_at=(day + number) * DAY_SECONDS))
        await world.drain()
        # The watch takes the first day's order. Another one for it comes before the shard knows.
        world.flow.add("orders", order(who, 3, occurred_at=day * DAY_SECONDS + 60))
        await world.drain()
        fields: dict[str, str | int] = {"closed": day, "closed_hour": day * 24 + 23, "unit": "day"}
        await world.store.commit_watch(WatchCommit(1, "w", fields | {"taken:0": 1}, {}))
        for number in (4, 5):
            at = (day + 2 * (number - 4)) * DAY_SECONDS + 90
            world.flow.add("orders", order(who, number, occurred_at=at))
            await world.drain()
        found = await cells_of(world)
        assert {parse_name(name)[0][0] for name in found if name.endswith("d||")} == {
            day + 1,
            day + 2,
        }
        assert found[f"{day + 2}d||"][1] == 2
        record = (await world.record()).fields
        assert (record["series:late"], record["series:gone"]) == ("2", "1")
        # The customer's own score has all of them.
        assert record["total:orders"] == "6"
        assert record["max_event_at:orders"] == str(((day + 2) * DAY_SECONDS + 90) * 1_000)

    run_quickly(main())


def test_a_bucket_is_kept_when_the_store_has_lost_that_it_was_closed() -> None:
    async def main() -> None:
        # What the worker has read of the watch does not get old by itself.
        world = World(settings=shard_settings(model_refresh_seconds=1e6))
        (who,) = customers_of(0, 4, 1)
        day = START_SECONDS // DAY_SECONDS - 3
        await world.shard.open()
        world.flow.add("orders", order(who, 0, occurred_at=day * DAY_SECONDS))
        await world.drain()
        await world.shard.close(1.0)
        before = await world.store.read_watch()
        fields: dict[str, str | int] = {"closed": day, "closed_hour": day * 24 + 23, "unit": "day"}
        await world.store.commit_watch(WatchCommit(1, "w", fields | {"taken:0": 1}, {}))

        async def back(commit: Commit) -> None:
            assert commit.series[f"{day}d||"] is None
            world.store.watch, world.store.before_commit = before, None
            raise StoreUnavailableError("back, without the last second")

        world.store.before_commit = back
        next_one = world.make_shard("next")
        await next_one.open()
        world.flow.add("orders", order(who, 1, occurred_at=(day + 1) * DAY_SECONDS))
        await world.drain(next_one)
        assert (await cells_of(world))[f"{day}d||"][1] == 1

    run_quickly(main())


def test_without_metrics_nothing_is_kept() -> None:
    async def main() -> None:
        world = World(settings=shard_settings(series=SeriesSettings(metrics=())))
        await world.shard.open()
        world.flow.add("orders", order(customers_of(0, 4, 1)[0], 1))
        await world.drain()
        assert (await world.record()).series == {}

    run_quickly(main())


def test_equity_is_kept_where_it_is_a_series() -> None:
    async def main() -> None:
        world = World(settings=shard_settings(series=SeriesSettings(metrics=("equity_growth",))))
        await world.shard.open()
        world.flow.add("orders", order(customers_of(0, 4, 1)[0], 1))
        await world.drain()
        record = await world.record()
        (packed,) = (cell for name, cell in record.series.items() if "|equity|" in name)
        assert str(parse_cell("", packed)[0]) == record.fields["total:equity"]

    run_quickly(main())
