"""The peers: what they are, how one is run, and how its result is verified.

    python -m bench.peer confluent-pydantic [--events 200000] [--rounds 1]

A peer finds the same events in the same topics of a fresh broker as the worker does, and a fresh
Redis, and is measured as the worker is: it starts and does some first events, is frozen while the
others are written, and is measured from the moment it goes on until its last score is there.
"""

import argparse
import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic_core import from_json
from redis import asyncio as aioredis

from bench.environments import NotInstalledError, environment, java_program
from bench.load import CUSTOMERS_SHARE, Load, Sums, difference, make_load, produce
from bench.stage import busy_share, cpu_seconds, fresh_servers, frozen
from valuetide.streams.deadletters import read_records
from valuetide.streams.guarded import GuardedServer
from valuetide.streams.settings import Settings

SCRIPTS = Path(__file__).parent / "peers"
POLL_SECONDS = 0.05
QUIET_SECONDS = 1.5
STILL_SECONDS = 60.0
"""A peer that writes nothing for so long, and is not done, never will be."""

SCAN = 1_000
PARTITIONS = 4
WARM = 2_000
JAVA_WARM = 100_000
SUMS = tuple(field.name for field in fields(Sums))
REDIS = "redis==8.1.0"
PYDANTIC = "pydantic==2.14.3"
CONFLUENT = ("confluent-kafka==2.16.1", PYDANTIC, "redis[hiredis]==8.1.0", "msgspec==0.22.0")


@dataclass(frozen=True)
class Peer:
    """A program that does the job otherwise.

    Attributes
    ----------
    name
        In tables and options.
    script
        File in bench/peers.
    requirements
        What its environment has.
    scores
        ``event`` or ``batch``: a score for each event, or for each customer and batch.
    misses
        What of the worker's job it does not do.
    slow
        By what the number of events is divided, so that a round takes a minute at most.
    warm
        First events, which are not measured. A Java machine compiles what it does often.
    """

    name: str
    script: str
    requirements: tuple[str, ...]
    scores: str
    misses: str
    slow: int = 1
    warm: int = WARM


NO_STATE = "no exactly-once state, dedup, learner"
CHANGELOG = "no dedup, learner; own state kept in a changelog, Redis behind it"
CHECKPOINTS = (
    "no dedup, learner; its own state is exactly-once by checkpoints, Redis lags behind it"
)
STREAMS_SCRIPT = "java/kafka_streams/KafkaStreamsPeer.java"
FAUST = ("faust-streaming==0.15.3", PYDANTIC, REDIS)
FASTSTREAM = ("faststream[kafka]==0.7.8", PYDANTIC, REDIS)
BYTEWAX = ("bytewax==0.21.1", "confluent-kafka==2.16.1", PYDANTIC, REDIS)
QUIX = ("quixstreams==3.28.1", "pydantic==2.13.5", REDIS)
PATHWAY = ("pathway==0.33.0", PYDANTIC, REDIS)
PEERS = {
    peer.name: peer
    for peer in (
        Peer("faust", "faust_idiomatic.py", FAUST, "event", NO_STATE, slow=10),
        Peer("faust-take", "faust_take.py", FAUST, "event", NO_STATE, slow=5),
        Peer("faststream", "faststream_plain.py", FASTSTREAM, "event", NO_STATE, slow=10),
        Peer("faststream-batch", "faststream_batch.py", FASTSTREAM, "event", NO_STATE),
        Peer("bytewax", "bytewax_flow.py", BYTEWAX, "event", NO_STATE, slow=2),
        Peer("bytewax-tuned", "bytewax_tuned.py", BYTEWAX, "batch", NO_STATE),
        Peer("quix", "quix_plain.py", QUIX, "event", NO_STATE, slow=5),
        Peer("quix-tuned", "quix_tuned.py", QUIX, "event", NO_STATE, slow=2),
        Peer("pathway", "pathway_flow.py", PATHWAY, "batch", NO_STATE),
        Peer("kafka-streams", STREAMS_SCRIPT, (), "event", CHANGELOG, warm=JAVA_WARM),
        Peer("flink", "java/flink/FlinkPeer.java", (), "event", CHECKPOINTS, warm=JAVA_WARM),
        Peer("confluent-pydantic", "confluent_pydantic.py", CONFLUENT, "event", NO_STATE),
        Peer("confluent-msgspec", "confluent_msgspec.py", CONFLUENT, "batch", NO_STATE),
    )
}


@dataclass(frozen=True)
class PeerMeasured:
    """Outcome of one verified round of a peer; see :class:`bench.pipeline.Measured`."""

    events_per_second: float
    cpu_us_per_event: float
    machine_busy: float


@dataclass(frozen=True)
class _Sample:
    """Number of records that the peer has written, the moment, and its CPU time until then."""

    records: int
    at: float
    cpu_seconds: float


class PeerProcess(GuardedServer):
    """A peer as a child process that never outlives us."""

    title = "peer"

    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        super().__init__()
        self._program = command
        self._settings = settings

    def _command(self, folder: Path, port: int) -> Sequence[str]:
        redis = self._settings.redis_url.get_secret_value()
        return ["env", f"BROKER={self._settings.broker}", f"REDIS={redis}", *self._program]

    def _answers(self, port: int) -> bool:
        return True  # It has nothing to ask; its scores show that it works.


def command_of(peer: Peer) -> list[str]:
    """Give the command that runs a peer, its environment made where need be."""
    script = SCRIPTS / peer.script
    if script.suffix == ".java":
        return java_program(script)
    python = environment(peer.name.partition("-")[0], peer.requirements)
    return [str(python), str(script)]


def peer_load(peer: Peer, events: int, seed: int) -> Load:
    """Give the events of a round; a slow peer gets fewer, of as many customers."""
    customers = max(1, events // CUSTOMERS_SHARE)
    return make_load(events // peer.slow, PARTITIONS, seed, customers=customers, warm=peer.warm)


async def one_peer_round(peer: Peer, load: Load) -> PeerMeasured:
    """Run a peer once from the beginning, verify its result, and give what was measured."""
    command = command_of(peer)
    with fresh_servers() as settings, PeerProcess(command, settings) as process:
        await produce(settings, load, 0, load.warm)
        await _watch(process, settings, load.warm - load.warm_bad)
        with frozen([process.pid]):
            await produce(settings, load, load.warm, load.events)
        before = busy_share()
        samples = await _watch(process, settings, load.events - load.bad)
        busy, machine = (now - then for now, then in zip(busy_share(), before, strict=True))
        await verify(settings, load)
    first = samples[0]
    last = next(sample for sample in samples if sample.records == samples[-1].records)
    events = load.events - load.warm
    return PeerMeasured(
        events / (last.at - first.at),
        (last.cpu_seconds - first.cpu_seconds) / events * 1e6,
        busy / machine,
    )


async def _watch(process: PeerProcess, settings: Settings, events: int) -> list[_Sample]:
    """Look at how much the peer has written, until it is still and Redis has all events."""
    topics = (settings.topics.scores, settings.topics.dead_letters)
    places = [TopicPartition(t, p) for t in topics for p in range(settings.partitions)]
    samples = [_Sample(-1, time.monotonic(), cpu_seconds([process.pid]))]
    since = samples[0].at
    consumer: AIOKafkaConsumer = AIOKafkaConsumer(bootstrap_servers=settings.broker)
    await consumer.start()
    try:
        while True:
            ends = await consumer.end_offsets(places)
            now = _Sample(sum(ends.values()), time.monotonic(), cpu_seconds([process.pid]))
            if now.records != samples[-1].records:
                since = now.at
            samples.append(now)
            quiet = now.at - since
            if quiet > QUIET_SECONDS:
                done = sum(sums.version for sums in (await read_state(settings)).values())
                if done == events:
                    return samples
                if quiet > STILL_SECONDS or not process.running:
                    raise AssertionError(
                        f"{done} of {events} events are in Redis, and it is still; the peer says\n"
                        + process.log_tail(60)
                    )
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await consumer.stop()


async def read_state(settings: Settings) -> dict[str, Sums]:
    """Give what the peer has in Redis of each customer."""
    found: dict[str, Sums] = {}
    async with aioredis.from_url(settings.redis_url.get_secret_value()) as client:
        keys = sorted({key async for key in client.scan_iter("customer:*", SCAN)})
        for at in range(0, len(keys), SCAN):
            part = keys[at : at + SCAN]
            async with client.pipeline(transaction=False) as pipeline:
                for key in part:
                    pipeline.hgetall(key)
                for key, found_fields in zip(part, await pipeline.execute(), strict=True):
                    sums = {name.decode(): int(value) for name, value in found_fields.items()}
                    found[key.decode().partition(":")[2]] = Sums(**sums)
    return found


async def verify(settings: Settings, load: Load) -> None:
    """Compare Redis, scores and dead letters with what must be; raise where they differ."""
    state = await read_state(settings)
    if state != load.customers:
        raise AssertionError(f"customers in Redis differ: {difference(state, load)}")
    published: dict[str, Sums] = defaultdict(Sums)
    async for record in read_records(settings, settings.topics.scores):
        score = from_json(record.value or b"{}")
        customer = score["customer_id"]
        if score["version"] > published[customer].version:
            published[customer] = Sums(**{name: score[name] for name in SUMS})
    if published != load.customers:
        raise AssertionError(f"the newest scores differ: {difference(published, load)}")
    letters = [r async for r in read_records(settings, settings.topics.dead_letters)]
    if len(letters) != load.bad:
        raise AssertionError(f"{len(letters)} dead letters, must be {load.bad}")


def main() -> None:
    """Run one peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="+", choices=[*PEERS, "all"])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name in PEERS if "all" in given.peers else given.peers:
        for number in range(given.rounds):
            load = peer_load(PEERS[name], given.events, given.seed + number)
            try:
                result = json.dumps(asdict(asyncio.run(one_peer_round(PEERS[name], load))))
            except (AssertionError, NotInstalledError) as error:
                result = f"not verified: {error}"
            print(name, result, flush=True)


if __name__ == "__main__":
    main()
