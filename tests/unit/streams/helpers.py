"""Histories of events, and what a shard must hold after them, by the plain reference."""

import json
import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.fakes import START_SECONDS, World, customers_of
from tests.support.reference import Event, Kind, Value, reference
from valuetide.schemas.score import RANKED
from valuetide.schemas.topics import INPUTS
from valuetide.streams.decode import Role
from valuetide.streams.records import MOVED_BY, TOTALS, moved_parts, stored_columns
from valuetide.streams.shard_memory import OUTCOMES
from valuetide.streams.sorting_out import REROUTED_HEADER

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DAY_SECONDS = 86_400


def example(topic: str, name: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads((EXAMPLES / topic / f"{name}.json").read_text("utf-8"))
    return message


def order(customer: str, number: int, **values: Any) -> dict[str, Any]:
    """Give a placed order of 10.00; its number makes event, order and time its own."""
    return {
        "event_id": f"e{number}",
        "customer_id": customer,
        "occurred_at": START_SECONDS + number,
        "order_id": f"o{number}",
        "kind": "placed",
        "amount": 10.0,
        "currency": "EUR",
    } | values


def visit(customer: str, number: int, **values: Any) -> dict[str, Any]:
    return {
        "event_id": f"v{number}",
        "customer_id": customer,
        "occurred_at": START_SECONDS + number,
        "kind": "visit",
        "cost": 0.25,
    } | values


def answer(customer: str, number: int, **values: Any) -> dict[str, Any]:
    return {
        "event_id": f"f{number}",
        "customer_id": customer,
        "occurred_at": START_SECONDS + number,
        "kind": "csat",
        "score": 4,
        "scale": [1, 5],
    } | values


@dataclass
class History:
    """What was put into the logs, and what has to become of it."""

    accepted: dict[str, list[tuple[Role, dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: set[str] = field(default_factory=set)
    rerouted: set[str] = field(default_factory=set)

    def fill(self, world: World, rng: random.Random, events: int) -> None:
        """Put events of all sorts into the logs of a world.

        At most 12 accepted events a customer, so that neither ring nor ledger forgets one.
        """
        here = customers_of(world.partition, world.settings.partitions, max(3, events // 8))
        elsewhere = customers_of(world.partition + 1, world.settings.partitions, 3)
        for number in range(events):
            role = rng.choice(("orders", "orders", "orders", *INPUTS))
            self._add_one(world, rng, role, number, here, elsewhere)

    def _add_one(
        self,
        world: World,
        rng: random.Random,
        role: Role,
        number: int,
        here: list[str],
        elsewhere: list[str],
    ) -> None:
        gap = rng.choice((0, 0, 0, 0, 1, 7))
        luck = rng.random()
        customer = rng.choice(here)
        past = self.accepted[customer]
        again = [event for where, event in past if where == role]
        if luck < 0.08:
            bad = rng.choice((None, b"no json", b"[]", b'{"event_id": "x"}', b"{}{}", b"\xff"))
            record = world.flow.add(role, bad, gap=gap)
            self.dead.add(f"{role}/{record.offset}")
            outcome = "dead_letter"
        elif luck < 0.16:
            stranger = make_event(rng, role, number, rng.choice(elsewhere))
            before = rng.random() < 0.5
            headers = [(REROUTED_HEADER, b"orders/1/1")] if before else []
            record = world.flow.add(role, stranger, headers, gap=gap)
            (self.dead if before else self.rerouted).add(f"{role}/{record.offset}")
            outcome = "dead_letter" if before else "rerouted"
        elif luck < 0.3 and again:
            world.flow.add(role, rng.choice(again), gap=gap)
            outcome = "duplicate"
        elif len(past) < 12:
            event = make_event(rng, role, number, customer)
            world.flow.add(role, event, gap=gap, keyed=rng.random() < 0.8)
            past.append((role, event))
            outcome = "folded"
        else:
            return
        self.outcomes[role, outcome] += 1

    def value(self, customer: str, now_ms: int) -> Value:
        """Give the customer's value by the reference."""
        numbers: dict[str, int] = {}

        def number(text: str) -> int:
            return numbers.setdefault(text, len(numbers))

        events = []
        kinds: dict[str, Kind] = {"interactions": "interaction", "feedback": "feedback"}
        for role, event in self.accepted[customer]:
            events.append(
                Event(
                    event=number(f"{role} {event['event_id']}"),
                    kind=kinds.get(role) or event["kind"],
                    at=round(event["occurred_at"] * 1000),
                    order=number(f"order {event.get('order_id')}"),
                    amount=round(event.get("amount", 0) * 100),
                    cost=round((event.get("cost") or 0) * 100),
                )
            )
        return reference(events, now_ms)


def make_event(rng: random.Random, role: Role, number: int, customer: str) -> dict[str, Any]:
    at = START_SECONDS + rng.randrange(-400, 0) * DAY_SECONDS + rng.randrange(10_000) / 1000
    if role == "interactions":
        return visit(customer, number, occurred_at=at, cost=rng.choice((None, 0.1, 3.07)))
    if role == "feedback":
        return answer(customer, number, occurred_at=at)
    kind = rng.choice(("placed", "placed", "placed", "returned", "cancelled"))
    cents, cost = rng.randrange(100_000), rng.choice((0, 0, rng.randrange(50_000)))
    return order(
        customer,
        number,
        order_id=f"o{rng.randrange(6)}",
        occurred_at=at,
        kind=kind,
        amount=cents / 100,
        cost=cost / 100,
    )


def as_ms(text: str | None) -> int | None:
    if text is None:
        return None
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def wrong_fields(row: dict[str, Any], value: Value) -> list[str]:
    """Names of fields in which a score differs from the reference beyond its rounding."""
    wrong = [name for name in ("version", "orders", "frequency", "rfm")
             if row[name] != getattr(value, name)]  # fmt: skip
    wrong += [
        name
        for name in ("revenue", "refunds", "margin", "cost_to_serve", "profit")
        if round(row[name] * 100) != getattr(value, name) or round(row[name], 2) != row[name]
    ]
    wrong += [
        name
        for name in ("first_order_at", "last_order_at")
        if as_ms(row[name]) != getattr(value, name)
    ]
    for name, digits in (("decayed_value", 4), ("recency_days", 5), ("monetary_value", 4)):
        found, wanted = row[name], getattr(value, name)
        if found is None or wanted is None:
            same = found is wanted
        else:
            same = math.isclose(found, wanted, rel_tol=1e-9, abs_tol=10.0**-digits)
        wrong += [] if same else [name]
    return wrong


def stored_rows(world: World) -> dict[str, dict[str, Any]]:
    """Give what the store has for people, by customer."""
    rows = world.store.shards[world.partition].rows
    names = stored_columns(world.settings.horizons_days)
    found = {}
    for customer, row in rows.items():
        score: dict[str, Any] = dict(zip(names, row, strict=True))
        found[customer] = score | moved_parts(score.pop(MOVED_BY))
    return found


def without_rank(score: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is of the moment of a message, and not stored."""
    return {name: value for name, value in score.items() if name != "clv_percentile"}


async def check_everything(world: World, history: History, *, fenced: bool = False) -> None:
    """Compare store, scores, counters, totals, months and dead letters with the history.

    Where workers were fenced off, scores that were sent and never committed may be the last ones;
    what is compared then is every score of the last version, at the moment that it is for.
    """
    rows = stored_rows(world)
    known = {customer for customer, events in history.accepted.items() if events}
    assert rows.keys() == known
    values = {}
    for customer, row in rows.items():
        now = as_ms(row["as_of"])
        assert now is not None
        values[customer] = value = history.value(customer, now)
        assert wrong_fields(row, value) == [], customer
    sent = [without_rank(score) for score in world.sender.scores]
    last = {score["customer_id"]: score for score in sent}
    assert last.keys() == rows.keys()
    for score in sent if fenced else ():
        customer = score["customer_id"]
        assert score["version"] <= rows[customer]["version"]
        if score["version"] == rows[customer]["version"]:
            assert wrong_fields(score, history.value(customer, as_ms(score["as_of"]) or 0)) == []
            last[customer] = {"customer_id": customer} | rows[customer]
    assert last == {one: {"customer_id": one} | row for one, row in rows.items()}

    fields = (await world.record()).fields
    counted = {
        (role, outcome): int(fields[f"count:{role}:{outcome}"])
        for role in INPUTS
        for outcome in OUTCOMES
    }
    assert counted == {key: history.outcomes[key] for key in counted}
    assert sum(counted.values()) == sum(len(log) for log in world.flow.logs.values())
    assert int(fields["total:customers"]) == len(known)
    for name in TOTALS:
        assert int(fields[f"total:{name}"]) == sum(getattr(v, name) for v in values.values()), name
    equity = sum(round(100 * (row["clv_365d"] or 0.0)) for row in rows.values())
    assert int(fields["total:equity"]) == equity
    for role, log in world.flow.logs.items():
        assert int(fields[f"offset:{role}"]) == (log[-1].offset + 1 if log else 0)
    assert (await world.record()).months == months(history)
    check_others(world, history)
    check_top(world, values)


def months(history: History) -> dict[str, str]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    for events in history.accepted.values():
        for role, event in events:
            if role == "orders":
                month = datetime.fromtimestamp(event["occurred_at"], UTC).strftime("%Y-%m")
                at = 2 * ("placed", "returned", "cancelled").index(event["kind"])
                sums[month][at] += 1
                sums[month][at + 1] += round(event["amount"] * 100)
    return {month: " ".join(map(str, values)) for month, values in sums.items()}


def check_others(world: World, history: History) -> None:
    """Dead letters and re-published events are there, as they came, perhaps more than once."""
    records = {
        f"{role}/{record.offset}": record for role, log in world.flow.logs.items() for record in log
    }
    dead = set()
    for letter in world.sender.others("dead-letters"):
        headers = {name: text.decode() for name, text in letter.headers}
        place = f"{headers['source_topic']}/{headers['source_offset']}"
        assert (letter.key, letter.value) == (records[place].key, records[place].value)
        dead.add(place)
    assert dead == history.dead
    rerouted = set()
    for role in INPUTS:
        for sent in world.sender.others(role):
            topic, _, offset = dict(sent.headers)[REROUTED_HEADER].decode().split("/")
            assert sent.value == records[f"{topic}/{offset}"].value
            assert sent.partition == world.partition + 1
            rerouted.add(f"{topic}/{offset}")
    assert rerouted == history.rerouted


def check_top(world: World, values: dict[str, Value]) -> None:
    """All customers are ranked, since there are fewer of them than places."""
    top = world.store.shards[world.partition].top
    for name in ("profit", "revenue"):
        wanted = {customer: getattr(value, name) / 100 for customer, value in values.items()}
        assert top.get(name, {}) == wanted
    assert set(top) <= set(RANKED)
    ranked = [value for _, value in top.get("decayed_value", {}).items()]
    assert np.all(np.diff(ranked) <= 0)
