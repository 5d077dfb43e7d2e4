"""Events of a made-up shop, from a seed."""

import random
from typing import Any

from tests.support.pipeline import Facts
from valuetide.streams.decode import Role

START = 1_700_000_000
DAY_SECONDS = 86_400
MOST_PER_CUSTOMER = 14
"""Fewer than the orders that stay open and the event ids that are remembered, 16 of each."""


def traffic(seed: int, customers: int, *, name: str = "c") -> list[Facts]:
    """Make 3 to 14 events of all kinds for each customer, all shuffled together in time.

    Returns and cancellations name orders of their customer; a few arrive before their order.
    """
    chance = random.Random(seed)
    events: list[Facts] = []
    for who in range(customers):
        customer = f"{name}-{who}"
        placed: list[str] = []
        count = chance.randint(3, MOST_PER_CUSTOMER)
        events.extend(_event(chance, customer, i, placed) for i in range(count))
    chance.shuffle(events)
    return events


def _event(chance: random.Random, customer: str, number: int, placed: list[str]) -> Facts:
    event: dict[str, Any] = {
        "event_id": f"{customer}-{number}",
        "customer_id": customer,
        "occurred_at": START + chance.randrange(300 * DAY_SECONDS * 1_000) / 1_000,
    }
    role: Role = chance.choices(("orders", "interactions", "feedback"), (6, 3, 1))[0]
    if role == "orders":
        kind = chance.choices(("placed", "returned", "cancelled"), (8, 1, 1))[0] if placed else ""
        if kind in ("", "placed"):
            placed.append(f"{customer}-order-{number}")
            order, kind = placed[-1], "placed"
        else:
            order = chance.choice(placed)
        cents = 0 if kind == "cancelled" else chance.randint(1, 50_000)
        event |= {"order_id": order, "kind": kind, "amount": cents / 100, "currency": "EUR"}
        if chance.random() < 0.5:
            event["cost"] = chance.randint(0, cents) / 100
    elif role == "interactions":
        event |= {"kind": chance.choice(("visit", "contact", "cart")), "channel": "web"}
        if chance.random() < 0.7:
            event["cost"] = chance.randint(0, 900) / 100
    else:
        event |= {"kind": "rating", "score": chance.randint(1, 5), "scale": [1, 5]}
    return role, event


def visits(seed: int, customers: int, count: int, *, name: str = "v") -> list[Facts]:
    """Make interactions of a few customers: as many as wanted, since no orders stay open."""
    chance = random.Random(seed)
    return [
        (
            "interactions",
            {
                "event_id": f"{name}-{number}",
                "customer_id": f"{name}-{chance.randrange(customers)}",
                "occurred_at": START + number,
                "kind": "visit",
                "cost": chance.randint(0, 900) / 100,
            },
        )
        for number in range(count)
    ]
