"""Pathway: sums by customer with groupby and reduce; one score per customer and batch.

Parsing is a user-defined function, as Pathway's own JSON format would not tell bad events apart.
"""

import pathway as pw
import redis
from job import BROKER, DEAD_LETTERS, GROUP, INPUTS, REDIS, SCORES, Sums, key, parse

SETTINGS = {
    "bootstrap.servers": BROKER,
    "group.id": GROUP,
    "auto.offset.reset": "earliest",
    "session.timeout.ms": "45000",
}
AUTOCOMMIT_MS = 50
FIELDS = ("version", "orders", "revenue", "refunds", "cost", "last_order_at")

store = redis.Redis.from_url(REDIS)
changed: dict[str, dict[str, int]] = {}


def parser(topic: str):
    @pw.udf(deterministic=True)
    def parsed(value: bytes) -> tuple[str, int, int, int, int, int, int]:
        event = parse(topic, value or b"")
        if event is None:
            return ("", 0, 0, 0, 0, 0, 0)
        sums = Sums()
        sums.fold(event)
        return (event.customer_id, *sums.fields().values())

    return parsed


def read(topic: str) -> pw.Table:
    raw = pw.io.kafka.read(
        SETTINGS, topic=topic, format="raw", autocommit_duration_ms=AUTOCOMMIT_MS
    )
    return raw.select(raw.key, raw.data, parsed=parser(topic)(raw.data))


def write(key, row, time, is_addition) -> None:
    if is_addition:
        changed[row["customer_id"]] = {name: row[name] for name in FIELDS}


def flush(time) -> None:
    if changed:
        with store.pipeline(transaction=False) as pipeline:
            for customer, fields in changed.items():
                pipeline.hset(key(customer), mapping=fields)
            pipeline.execute()
        changed.clear()


events = pw.Table.concat_reindex(*(read(topic) for topic in INPUTS))
bad = events.filter(pw.this.parsed[0] == "")
pw.io.kafka.write(bad, SETTINGS, DEAD_LETTERS, format="raw", key=bad.key, value=bad.data)
good = events.filter(pw.this.parsed[0] != "").select(
    customer_id=pw.this.parsed[0],
    **{name: pw.this.parsed[i + 1] for i, name in enumerate(FIELDS)},
)
sums = good.groupby(pw.this.customer_id).reduce(
    pw.this.customer_id,
    **{name: pw.reducers.sum(pw.this[name]) for name in FIELDS[:-1]},
    last_order_at=pw.reducers.max(pw.this.last_order_at),
)
pw.io.subscribe(sums, on_change=write, on_time_end=flush)
pw.io.kafka.write(sums, SETTINGS, SCORES, format="json")

if __name__ == "__main__":
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
