"""Faults that end in a stop, which a person has to mend; and two times that are promised.

    python -m tests.chaos.scenarios [--servers embedded|apache] [--seed S] [--only NAME]

Each has a stage of its own. A stop has to be clear (the last line of the log says what is wrong and
what to do), must harm nothing, and once mended, everything counts exactly once.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaProducer
from kafka.admin import KafkaAdminClient

from tests.chaos.crew import Worker, signal_process
from tests.chaos.stage import Stage
from tests.chaos.verify import sent_events, verify, wait_until_done
from tests.support.pipeline import wait_until
from valuetide.streams.embedded import EmbeddedRedis
from valuetide.streams.partitioner import partition_of

RATE = 5_500.0
STOP_SECONDS = 60.0
TAKEOVERS = 5
CUSTOMERS = 1_000_000
RESTARTS = 5
LOADING_RATE_LIMIT_SECONDS = 300.0

Numbers = dict[str, float | int | str]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def begin(stage: Stage, workers: int = 2) -> None:
    for _ in range(workers):
        stage.crew.add()
    assert stage.crew.settled(60), "the workers do not get ready"
    stage.start_load()
    assert stage.watch.wait_recovered(time.monotonic(), 60), "no event is counted"


def end(stage: Stage) -> dict[str, object]:
    sent = stage.stop_load()
    events = sent_events(stage.seed, sent["cohorts"])
    assert wait_until_done(stage, len(events), 180), "not all was committed"
    return verify(stage, events, sent["cohorts"])


def stopped_saying(stage: Stage, words: str) -> str:
    """Wait until each worker has ended by itself with these words; gives the last one's."""
    names = {worker.name for worker in stage.crew.workers}

    def all_said() -> bool:
        return names <= {e.worker for e in stage.crew.exits if words in e.last_words}

    wait_until(all_said, f"every worker ends, saying: {words}", STOP_SECONDS)
    return stage.crew.exits[-1].last_words


def redis_empty(stage: Stage) -> Numbers:
    """Redis comes back empty: workers stop, again and again; its file is put back; all goes on."""
    begin(stage)
    time.sleep(3)
    full = stage.redis
    at = time.monotonic()
    signal_process(full, signal.SIGTERM)
    wait_until(lambda: not full.running, "Redis has ended", 30)
    empty: EmbeddedRedis = stage.new_redis()
    empty.start()
    try:
        stage.redis, stage.redis_proxy.target = empty, empty.port
        stage.redis_proxy.cut()
        said = stopped_saying(stage, "Redis has no state")
        seconds = time.monotonic() - at
        # And so does a worker that has never seen it otherwise.
        count = len(stage.crew.exits)
        wait_until(lambda: len(stage.crew.exits) >= count + 2, "new ones end, too", STOP_SECONDS)
        wrong = [
            e.last_words for e in stage.crew.exits[count:] if "Redis has no" not in e.last_words
        ]
        assert not wrong, wrong
        keys = stage.redis_client().dbsize()
        assert keys == 0, f"{keys} keys were written to the empty Redis"
    finally:
        empty.stop()
        stage.redis, stage.redis_proxy.target = full, full.port
    full.start()
    stage.redis_proxy.cut()
    assert stage.watch.wait_recovered(time.monotonic(), 90), "it does not go on"
    verified = end(stage)
    return {"seconds": round(seconds, 1), "said": said, "verified": json.dumps(verified)}


def topic_deleted(stage: Stage) -> Numbers:
    """An input is deleted under load: workers stop, the state stays as it was."""
    begin(stage)
    time.sleep(3)
    stage.check_load()
    assert stage._load is not None
    stage._load.kill()
    time.sleep(2)
    before = stage.pipeline.overview()
    customers = stage.pipeline.state()
    at = time.monotonic()
    client = KafkaAdminClient(bootstrap_servers=stage.settings.broker)
    try:
        client.delete_topics([stage.settings.topics.orders])
    finally:
        client.close()
    said = stopped_saying(stage, stage.settings.topics.orders)
    seconds = time.monotonic() - at
    assert stage.pipeline.overview() == before
    assert stage.pipeline.state() == customers
    return {"seconds": round(seconds, 1), "said": said, "customers": len(customers)}


def takeover(stage: Stage) -> Numbers:
    """One of two workers is killed and not replaced until the other has all partitions.

    The group has noticed when the other one joins anew (JoinGroup), and has agreed on who gets
    what when it asks for that (SyncGroup).
    """
    begin(stage)
    times: dict[str, list[float]] = {"kill": [], "join": [], "sync": []}
    for _ in range(TAKEOVERS):
        assert stage.crew.settled(60), "the workers do not get ready"
        time.sleep(stage.chance.uniform(1, 2))
        wait_until(
            lambda: all(worker.ready_partitions() for worker in stage.crew.workers),
            "both workers have partitions",
        )
        victim = stage.chance.choice(stage.crew.workers)
        at = time.monotonic()
        stage.crew.kill(victim, restart_after=14.0)
        done = stage.watch.wait_recovered(at, 60)
        assert done is not None, "not taken over"
        proxy = stage.broker_proxy
        times["kill"].append(done - at)
        times["join"].append(done - next(join for join in proxy.joins if join > at))
        times["sync"].append(done - next(sync for sync in proxy.syncs if sync > at))
        say("  after " + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in times.items()))
        time.sleep(max(0.0, at + 15.0 - time.monotonic()))
    numbers: Numbers = {
        "takeovers": TAKEOVERS,
        "session_timeout": stage.settings.session_timeout_seconds,
        "rebalance_timeout": stage.settings.rebalance_timeout_seconds,
        "verified": json.dumps(end(stage)),
    }
    for name, values in times.items():
        numbers[f"after_{name}_median"] = round(statistics.median(values), 2)
        numbers[f"after_{name}_worst"] = round(max(values), 2)
    return numbers


async def send_visits(stage: Stage, first: int, count: int) -> None:
    settings = stage.settings
    producer: AIOKafkaProducer = AIOKafkaProducer(
        bootstrap_servers=settings.broker, max_batch_size=256 * 1024
    )
    await producer.start()
    try:
        batches = {p: producer.create_batch() for p in range(settings.partitions)}
        for number in range(first, first + count):
            customer = f"customer-{number % CUSTOMERS}"
            event = {
                "event_id": f"visit-{number}",
                "customer_id": customer,
                "occurred_at": 1_700_000_000 + number / 1_000,
                "kind": "visit",
            }
            place = partition_of(customer, settings.partitions)
            key, value = customer.encode(), json.dumps(event).encode()
            while batches[place].append(key=key, value=value, timestamp=None) is None:
                batches[place].close()
                await producer.send_batch(
                    batches[place], settings.topics.interactions, partition=place
                )
                batches[place] = producer.create_batch()
        for place, batch in batches.items():
            batch.close()
            await producer.send_batch(batch, settings.topics.interactions, partition=place)
        await producer.flush()
    finally:
        await producer.stop()


def counted(stage: Stage) -> int:
    look = stage.watch.last()
    return sum(look.events) if look is not None else 0


def million(stage: Stage) -> Numbers:
    """A worker with a million customers is started again, and has an event waiting for it."""
    worker: Worker = stage.crew.add()
    assert stage.crew.settled(60)
    began = time.monotonic()
    asyncio.run(send_visits(stage, 0, CUSTOMERS))
    wait_until(lambda: counted(stage) == CUSTOMERS, "all are there", LOADING_RATE_LIMIT_SECONDS)
    say(f"  {CUSTOMERS:,} customers within {time.monotonic() - began:.0f} s")
    since_start, since_assigned = [], []
    for turn in range(RESTARTS):
        stage.crew.remove(worker)
        asyncio.run(send_visits(stage, CUSTOMERS + turn, 1))
        at = time.monotonic()
        worker = stage.crew.add()
        assigned = 0.0
        while counted(stage) != CUSTOMERS + turn + 1:
            assert time.monotonic() < at + 60, "it is not counted"
            if not assigned and "shards opened" in worker.log_tail(50):
                assigned = time.monotonic()
            time.sleep(0.01)
        done = time.monotonic()
        since_start.append(done - at)
        since_assigned.append(done - (assigned or done))
        say(f"  {since_start[-1]:.2f} s after its start")
    return {
        "restarts": RESTARTS,
        "median": round(statistics.median(since_start), 2),
        "worst": round(max(since_start), 2),
        "after_assignment_worst": round(max(since_assigned), 2),
    }


SCENARIOS: dict[str, Callable[[Stage], Numbers]] = {
    "redis-empty": redis_empty,
    "topic-deleted": topic_deleted,
    "takeover": takeover,
    "million": million,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.scenarios", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--servers", choices=("embedded", "apache"), default="embedded")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", choices=list(SCENARIOS), action="append")
    parser.add_argument("--report", type=Path, default=Path("build/chaos-scenarios.json"))
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10_000)
    say(f"seed {seed}: python -m tests.chaos.scenarios --servers {given.servers} --seed {seed}")
    found: dict[str, Numbers] = {}
    failed = False
    for name in given.only or SCENARIOS:
        with Stage(given.servers, seed, RATE) as stage:
            try:
                found[name] = SCENARIOS[name](stage)
            except AssertionError as error:
                failed = True
                found[name] = {"failed": str(error)[:3_000]}
                for worker in stage.crew.workers:
                    say(f"--- {worker.name}\n{worker.log_tail(15)}")
        say(f"{name}: {json.dumps(found[name], indent=1)}")
    given.report.parent.mkdir(parents=True, exist_ok=True)
    result = {"servers": given.servers, "seed": seed, "found": found}
    given.report.write_text(json.dumps(result, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
