"""FastStream as its documentation shows it: a subscriber that is called for each event."""

import asyncio

from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaMessage
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES, Sums, key, parse, sums_from
from redis import asyncio as aioredis


async def as_it_came(message: KafkaMessage) -> bytes:
    return message.body


broker = KafkaBroker(BROKER, decoder=as_it_came, logger=None)
app = FastStream(broker, logger=None)
store = aioredis.from_url(REDIS)
customers: dict[str, Sums] = {}


@broker.subscriber(*INPUTS, group_id=GROUP, auto_offset_reset="earliest")
async def value(body: bytes, message: KafkaMessage) -> None:
    record = message.raw_message
    event = parse(record.topic, body or b"")
    if event is None:
        await broker.publish(record.value, DEAD_LETTERS, key=record.key)
        return
    customer = event.customer_id
    if customer not in customers:
        customers[customer] = sums_from(await store.hgetall(key(customer)))
    sums = customers[customer]
    sums.fold(event)
    await store.hset(key(customer), mapping=sums.fields())
    await broker.publish(sums.score(customer), SCORES, key=customer.encode())


if __name__ == "__main__":
    asyncio.run(app.run())
