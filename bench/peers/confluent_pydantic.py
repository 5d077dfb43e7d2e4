"""By hand: confluent-kafka, pydantic, redis-py with a pipeline; one score per event.

Reads batches, holds the customers' sums in memory (read from Redis when first met), writes what a
batch changed in one pipeline, sends the scores, waits until the broker has them, commits offsets.
"""

import redis
from confluent_kafka import Consumer, Producer
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES, Sums, key, parse, sums_from

BATCH = 1_000

consumer = Consumer(
    {
        "bootstrap.servers": BROKER,
        "group.id": GROUP,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
producer = Producer({"bootstrap.servers": BROKER, "linger.ms": 5, "partitioner": "murmur2_random"})
store = redis.Redis.from_url(REDIS)
customers: dict[str, Sums] = {}


def send(topic: str, value: bytes, of: bytes | str | None) -> None:
    while True:
        try:
            return producer.produce(topic, value, of)
        except BufferError:
            producer.poll(0.1)


def load(names: list[str]) -> None:
    with store.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.hgetall(key(name))
        for name, fields in zip(names, pipeline.execute(), strict=True):
            customers[name] = sums_from(fields)


consumer.subscribe(INPUTS)
while True:
    messages = [m for m in consumer.consume(BATCH, timeout=0.05) if m.error() is None]
    if not messages:
        continue
    events = [(message, parse(message.topic(), message.value() or b"")) for message in messages]
    touched = list({event.customer_id for _, event in events if event is not None})
    if unknown := [name for name in touched if name not in customers]:
        load(unknown)
    for message, event in events:
        if event is None:
            send(DEAD_LETTERS, message.value(), message.key())
        else:
            sums = customers[event.customer_id]
            sums.fold(event)
            send(SCORES, sums.score(event.customer_id), event.customer_id)
    with store.pipeline(transaction=False) as pipeline:
        for name in touched:
            pipeline.hset(key(name), mapping=customers[name].fields())
        pipeline.execute()
    producer.flush()
    consumer.commit(asynchronous=False)
