"""Faust as its documentation shows it: an agent that is called for each event.

The agent reads the three topics, awaits Redis and awaits the send of each score.
"""

import faust
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES, Sums, key, parse, sums_from
from redis import asyncio as aioredis

app = faust.App(GROUP, broker=f"kafka://{BROKER}", web_enabled=False, topic_allow_declare=False)
events = app.topic(*INPUTS, key_serializer="raw", value_serializer="raw")
scores = app.topic(SCORES, key_serializer="raw", value_serializer="raw")
dead_letters = app.topic(DEAD_LETTERS, key_serializer="raw", value_serializer="raw")
store = aioredis.from_url(REDIS)
customers: dict[str, Sums] = {}


@app.agent(events)
async def value(stream):
    async for event in stream.events():
        found = parse(event.message.topic, event.value or b"")
        if found is None:
            await dead_letters.send(key=event.key, value=event.value)
            continue
        customer = found.customer_id
        if customer not in customers:
            customers[customer] = sums_from(await store.hgetall(key(customer)))
        sums = customers[customer]
        sums.fold(found)
        await store.hset(key(customer), mapping=sums.fields())
        await scores.send(key=customer.encode(), value=sums.score(customer))


if __name__ == "__main__":
    app.finalize()
    worker = faust.Worker(app, loglevel="warning")
    worker.execute_from_commandline()
