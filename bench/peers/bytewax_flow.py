"""Bytewax as its documentation shows it: a dataflow with a stateful map by customer.

The sink writes to Redis what it gets at a time in one pipeline.
"""

import bytewax.operators as op
import redis
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main
from job import BROKER, DEAD_LETTERS, INPUTS, REDIS, SCORES, Sums, key, parse


def fold(sums, event):
    sums = sums or Sums()
    sums.fold(event)
    return sums, (sums.fields(), sums.score(event.customer_id))


class RedisPartition(StatelessSinkPartition):
    def __init__(self):
        self.store = redis.Redis.from_url(REDIS)

    def write_batch(self, items):
        with self.store.pipeline(transaction=False) as pipeline:
            for customer, (fields, _) in items:
                pipeline.hset(key(customer), mapping=fields)
            pipeline.execute()


class RedisSink(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return RedisPartition()


flow = Dataflow("value")
messages = kop.input("events", flow, brokers=[BROKER], topics=INPUTS).oks
parsed = op.map("parse", messages, lambda m: (m, parse(m.topic, m.value or b"")))
split = op.branch("bad", parsed, lambda pair: pair[1] is None)
letters = op.map("letter", split.trues, lambda p: KafkaSinkMessage(p[0].key, p[0].value))
kop.output("dead-letters", letters, brokers=[BROKER], topic=DEAD_LETTERS)
events = op.map("keyed", split.falses, lambda pair: (pair[1].customer_id, pair[1]))
folded = op.stateful_map("fold", events, fold)
op.output("redis", folded, RedisSink())
scores = op.map("score", folded, lambda f: KafkaSinkMessage(f[0].encode(), f[1][1]))
kop.output("scores", scores, brokers=[BROKER], topic=SCORES)

if __name__ == "__main__":
    cli_main(flow)
