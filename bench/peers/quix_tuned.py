"""Quix Streams tuned: a batching sink writes a checkpoint's customers to Redis in one pipeline."""

import redis
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES, Sums, key, parse, sums_from
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

CHECKPOINT = 10_000

app = Application(
    broker_address=BROKER,
    consumer_group=GROUP,
    auto_offset_reset="earliest",
    auto_create_topics=False,
    loglevel="WARNING",
    commit_every=CHECKPOINT,
    commit_interval=0.5,
    max_partition_buffer_size=50_000,
)
scores = app.topic(SCORES, value_serializer="bytes")
dead_letters = app.topic(DEAD_LETTERS, value_serializer="bytes")
store = redis.Redis.from_url(REDIS)
customers: dict[str, Sums] = {}


class RedisSink(BatchingSink):
    def write(self, batch: SinkBatch) -> None:
        with store.pipeline(transaction=False) as pipeline:
            for customer in {item.value[0].customer_id for item in batch}:
                pipeline.hset(key(customer), mapping=customers[customer].fields())
            pipeline.execute()


sink = RedisSink()


def fold(pair) -> bytes:
    event = pair[0]
    customer = event.customer_id
    if customer not in customers:
        customers[customer] = sums_from(store.hgetall(key(customer)))
    sums = customers[customer]
    sums.fold(event)
    return sums.score(customer)


def flow(name: str) -> None:
    frame = app.dataframe(app.topic(name, value_deserializer="bytes"))
    parsed = frame.apply(lambda value: (parse(name, value or b""), value))
    bad = parsed.filter(lambda pair: pair[0] is None).apply(lambda pair: pair[1] or b"")
    bad.to_topic(dead_letters)
    good = parsed.filter(lambda pair: pair[0] is not None)
    good.apply(fold).to_topic(scores)
    good.sink(sink)


for topic in INPUTS:
    flow(topic)

if __name__ == "__main__":
    app.run()
