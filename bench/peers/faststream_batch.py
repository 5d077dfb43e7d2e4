"""FastStream tuned: batches, a pipeline to Redis, sends that are awaited once a batch."""

import asyncio

from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaMessage
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES, Sums, key, parse, sums_from
from redis import asyncio as aioredis

BATCH = 1_000


async def as_it_came(message: KafkaMessage) -> list[bytes]:
    return message.body


broker = KafkaBroker(BROKER, decoder=as_it_came, logger=None, linger_ms=5)
app = FastStream(broker, logger=None)
store = aioredis.from_url(REDIS)
customers: dict[str, Sums] = {}


async def load(names: list[str]) -> None:
    async with store.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.hgetall(key(name))
        for name, fields in zip(names, await pipeline.execute(), strict=True):
            customers[name] = sums_from(fields)


@broker.subscriber(
    *INPUTS,
    group_id=GROUP,
    auto_offset_reset="earliest",
    batch=True,
    max_records=BATCH,
    batch_timeout_ms=50,
)
async def value(message: KafkaMessage) -> None:
    found = [(r, parse(r.topic, r.value or b"")) for r in message.raw_message]
    touched = list({event.customer_id for _, event in found if event is not None})
    if unknown := [name for name in touched if name not in customers]:
        await load(unknown)
    sent = []
    for record, event in found:
        if event is None:
            sent.append((record.value, DEAD_LETTERS, record.key))
            continue
        sums = customers[event.customer_id]
        sums.fold(event)
        sent.append((sums.score(event.customer_id), SCORES, event.customer_id.encode()))
    futures = [
        await broker.publish(score, topic, key=of, no_confirm=True) for score, topic, of in sent
    ]
    async with store.pipeline(transaction=False) as pipeline:
        for name in touched:
            pipeline.hset(key(name), mapping=customers[name].fields())
        await pipeline.execute()
    await asyncio.gather(*futures)


if __name__ == "__main__":
    asyncio.run(app.run())
