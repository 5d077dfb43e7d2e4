"""Sends events on a timetable, and notes when messages arrive; a process of its own each.

    traffic.py send BROKER EVENTS RATE OUT      EVENTS: pickled [(topic, partition, key, value)]
    traffic.py listen BROKER TOPIC,TOPIC PARTITION,PARTITION OUT    until standard input ends

Runs in the environment of the confluent-kafka peers, whose client costs a tenth of one written in
Python, so that the measuring takes less of the machine. Times are of the monotonic clock, which
all processes of a machine share. The load is open: every event has its time beforehand (a Poisson
process), and what is written down is that time, not the one at which there was time to send.
"""

import pickle
import random
import select
import sys
import time
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

LEAD_SECONDS = 0.5


def send(broker: str, events_file: str, rate: float, out: str) -> None:
    """Send events at random times, ``rate`` a second on average; write down the intended times."""
    events = pickle.loads(Path(events_file).read_bytes())
    producer = Producer(
        {
            "bootstrap.servers": broker,
            "acks": "all",
            # All events wait here rather than not be sent while the broker stalls.
            "queue.buffering.max.messages": 10_000_000,
            "queue.buffering.max.kbytes": 4_000_000,
        }
    )
    for topic in {event[0] for event in events}:
        producer.list_topics(topic, timeout=10)
    chance = random.Random(1)
    due = time.monotonic() + LEAD_SECONDS
    intended = []
    for topic, partition, key, value in events:
        due += chance.expovariate(rate)
        intended.append(due)
        while (wait := due - time.monotonic()) > 0:
            producer.poll(0)
            time.sleep(min(wait, 0.005))
        producer.produce(topic, value, key, partition)
    late = time.monotonic() - due
    if producer.flush(30):
        sys.exit("not all events were sent")
    Path(out).write_bytes(pickle.dumps({"intended": intended, "late_seconds": late}))


def listen(broker: str, topics: list[str], partitions: list[int], out: str) -> None:
    """Note for each message of these partitions its arrival, key and value."""
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": "listener", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(t, p, OFFSET_BEGINNING) for t in topics for p in partitions])
    found = []
    print("ready", flush=True)
    checked = 0.0
    while True:
        message = consumer.poll(0.05)
        now = time.monotonic()
        if message is not None and message.error() is None:
            found.append((now, message.key(), message.value()))
        if now - checked > 0.1:
            checked = now
            if select.select([sys.stdin], [], [], 0)[0]:
                break
    consumer.close()
    Path(out).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5])
    else:
        partitions = [int(number) for number in sys.argv[4].split(",")]
        listen(sys.argv[2], sys.argv[3].split(","), partitions, sys.argv[5])
