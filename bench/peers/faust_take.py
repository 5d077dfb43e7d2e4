"""Faust tuned: take() gives the agent many events at once, which share a pipeline to Redis."""

import faust
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES, Sums, key, parse, sums_from
from redis import asyncio as aioredis

BATCH = 1_000

app = faust.App(
    GROUP,
    broker=f"kafka://{BROKER}",
    web_enabled=False,
    topic_allow_declare=False,
    stream_buffer_maxsize=16_384,
    stream_wait_empty=False,
    producer_linger=0.005,
)
events = app.topic(*INPUTS, key_serializer="raw", value_serializer="raw")
scores = app.topic(SCORES, key_serializer="raw", value_serializer="raw")
dead_letters = app.topic(DEAD_LETTERS, key_serializer="raw", value_serializer="raw")
store = aioredis.from_url(REDIS)
customers: dict[str, Sums] = {}


async def load(names: list[str]) -> None:
    async with store.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.hgetall(key(name))
        for name, fields in zip(names, await pipeline.execute(), strict=True):
            customers[name] = sums_from(fields)


@app.agent(events)
async def value(stream):
    async for batch in stream.take_events(BATCH, within=0.05):
        found = [(event, parse(event.message.topic, event.value or b"")) for event in batch]
        touched = list({of.customer_id for _, of in found if of is not None})
        if unknown := [name for name in touched if name not in customers]:
            await load(unknown)
        for event, of in found:
            if of is None:
                await dead_letters.send(key=event.key, value=event.value)
                continue
            sums = customers[of.customer_id]
            sums.fold(of)
            await scores.send(key=of.customer_id.encode(), value=sums.score(of.customer_id))
        async with store.pipeline(transaction=False) as pipeline:
            for name in touched:
                pipeline.hset(key(name), mapping=customers[name].fields())
            await pipeline.execute()


if __name__ == "__main__":
    app.finalize()
    worker = faust.Worker(app, loglevel="warning")
    worker.execute_from_commandline()
