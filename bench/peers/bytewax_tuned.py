"""Bytewax tuned: one operator takes batches; one write and one score per customer and batch."""

import bytewax.operators as op
import redis
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main
from job import BROKER, DEAD_LETTERS, INPUTS, REDIS, SCORES, Sums, key, parse, sums_from

BATCH = 5_000

store = redis.Redis.from_url(REDIS)
customers: dict[str, Sums] = {}


def load(names: list[str]) -> None:
    with store.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.hgetall(key(name))
        for name, fields in zip(names, pipeline.execute(), strict=True):
            customers[name] = sums_from(fields)


def work(messages):
    """Give for each message to be sent its topic, key and value."""
    events, out = [], []
    for message in messages:
        event = parse(message.topic, message.value or b"")
        if event is None:
            out.append((DEAD_LETTERS, message.key, message.value))
        else:
            events.append(event)
    touched = list({event.customer_id for event in events})
    if unknown := [name for name in touched if name not in customers]:
        load(unknown)
    for event in events:
        customers[event.customer_id].fold(event)
    with store.pipeline(transaction=False) as pipeline:
        for name in touched:
            pipeline.hset(key(name), mapping=customers[name].fields())
            out.append((SCORES, name.encode(), customers[name].score(name)))
        pipeline.execute()
    return out


flow = Dataflow("value")
messages = kop.input("events", flow, brokers=[BROKER], topics=INPUTS, batch_size=BATCH).oks
done = op.flat_map_batch("work", messages, work)
sent = op.map("message", done, lambda d: KafkaSinkMessage(d[1], d[2], topic=d[0]))
kop.output("out", sent, brokers=[BROKER], topic=SCORES)

if __name__ == "__main__":
    cli_main(flow)
