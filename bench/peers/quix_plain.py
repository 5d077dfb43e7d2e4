"""Quix Streams as its documentation shows it: a dataframe per topic, functions applied per event.

Redis is written in the same step, an event at a time.
"""

import redis
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES, Sums, key, parse, sums_from
from quixstreams import Application

app = Application(
    broker_address=BROKER,
    consumer_group=GROUP,
    auto_offset_reset="earliest",
    auto_create_topics=False,
    loglevel="WARNING",
)
scores = app.topic(SCORES, value_serializer="bytes")
dead_letters = app.topic(DEAD_LETTERS, value_serializer="bytes")
store = redis.Redis.from_url(REDIS)
customers: dict[str, Sums] = {}


def fold(event) -> bytes:
    customer = event.customer_id
    if customer not in customers:
        customers[customer] = sums_from(store.hgetall(key(customer)))
    sums = customers[customer]
    sums.fold(event)
    store.hset(key(customer), mapping=sums.fields())
    return sums.score(customer)


def flow(name: str) -> None:
    frame = app.dataframe(app.topic(name, value_deserializer="bytes"))
    parsed = frame.apply(lambda value: (parse(name, value or b""), value))
    bad = parsed.filter(lambda pair: pair[0] is None).apply(lambda pair: pair[1] or b"")
    bad.to_topic(dead_letters)
    parsed.filter(lambda pair: pair[0] is not None).apply(lambda pair: fold(pair[0])).to_topic(
        scores
    )


for topic in INPUTS:
    flow(topic)

if __name__ == "__main__":
    app.run()
