"""By hand and tuned: confluent-kafka, msgspec, hiredis; one score per customer and batch.

Large batches; what is written to Redis and sent to the broker is made once for each customer that
a batch touched; commands to Redis are packed by hiredis and sent without redis-py's pipeline.
"""

from typing import Annotated, Literal

import msgspec
import redis
from confluent_kafka import Consumer, Producer
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES

BATCH = 10_000

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Number = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]


class Order(msgspec.Struct, gc=False):
    event_id: Identifier
    customer_id: Identifier
    occurred_at: float
    order_id: Identifier
    kind: Literal["placed", "returned", "cancelled"]
    amount: Amount
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    channel: str | None = None


class Interaction(msgspec.Struct, gc=False):
    event_id: Identifier
    customer_id: Identifier
    occurred_at: float
    kind: Identifier
    channel: str | None = None
    cost: Amount | None = None


class Feedback(msgspec.Struct, gc=False):
    event_id: Identifier
    customer_id: Identifier
    occurred_at: float
    kind: Literal["csat", "nps", "ces", "rating", "complaint"]
    score: Number
    scale: tuple[Number, Number]


class Score(msgspec.Struct, gc=False):
    customer_id: str
    version: int = 0
    orders: int = 0
    revenue: int = 0
    refunds: int = 0
    cost: int = 0
    last_order_at: int = 0


FIELDS = Score.__struct_fields__[1:]
DECODE = {
    name: msgspec.json.Decoder(of).decode
    for name, of in {"orders": Order, "interactions": Interaction, "feedback": Feedback}.items()
}
encode = msgspec.json.Encoder().encode

consumer = Consumer(
    {
        "bootstrap.servers": BROKER,
        "group.id": GROUP,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "queued.min.messages": 200_000,
    }
)
producer = Producer(
    {
        "bootstrap.servers": BROKER,
        "linger.ms": 5,
        "batch.size": 1_000_000,
        "queue.buffering.max.messages": 1_000_000,
        "partitioner": "murmur2_random",
    }
)
connection = redis.Redis.from_url(REDIS).connection_pool.get_connection()
customers: dict[str, Score] = {}


def load(names: list[str]) -> None:
    connection.send_packed_command(
        connection.pack_commands([("HMGET", f"customer:{name}", *FIELDS) for name in names])
    )
    for name in names:
        customers[name] = Score(name, *(int(value or 0) for value in connection.read_response()))


consumer.subscribe(INPUTS)
while True:
    messages = consumer.consume(BATCH, timeout=0.05)
    if not messages:
        continue
    events = []
    for message in messages:
        value = message.value() or b""
        try:
            events.append(DECODE[message.topic()](value))
        except msgspec.MsgspecError:
            producer.produce(DEAD_LETTERS, value, message.key())
    touched = {event.customer_id for event in events}
    if unknown := [name for name in touched if name not in customers]:
        load(unknown)
    for event in events:
        sums = customers[event.customer_id]
        sums.version += 1
        if type(event) is Order:
            if event.kind == "placed":
                sums.orders += 1
                sums.revenue += round(event.amount * 100)
                sums.last_order_at = max(sums.last_order_at, round(event.occurred_at * 1000))
            elif event.kind == "returned":
                sums.refunds += round(event.amount * 100)
        elif type(event) is Interaction:
            sums.cost += round((event.cost or 0) * 100)
    commands = []
    for name in touched:
        score = customers[name]
        fields = [x for field in FIELDS for x in (field, getattr(score, field))]
        commands.append(("HSET", f"customer:{name}", *fields))
        producer.produce(SCORES, encode(score), name)
    connection.send_packed_command(connection.pack_commands(commands))
    for _ in commands:
        connection.read_response()
    producer.flush()
    consumer.commit(asynchronous=False)
