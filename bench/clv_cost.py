"""What lifetime value costs the worker: CPU an event, in process, by what is done.

    python -m bench.clv_cost

All of CDNOW through one shard's memory, in micro-batches of 1,000 and 4,000 orders, without broker
and Redis. The least of some rounds counts: others use the machine as well, which also makes CPU
time longer. The model's part holds all its evaluations, those of what scores were on the way from
the last ones included; moved_by's is what is left to it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from bench.outcome import Outcome
from tests.support.shared_data import lifetimes_data
from valuetide.scoring.lifetime.grading import Grading
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.ranks import Percentiles, Ranks
from valuetide.scoring.lifetime.sample import Sample
from valuetide.streams import shard_model
from valuetide.streams.decode import Decoder
from valuetide.streams.pool import Pool
from valuetide.streams.replay import presets
from valuetide.streams.settings import Settings, load_settings
from valuetide.streams.shard_memory import ShardMemory
from valuetide.streams.shard_model import ShardModel
from valuetide.streams.store import ShardRecord

SIZES = (1_000, 4_000)
ROUNDS = 4
MOST_US = 5.0
WATCHED: dict[str, tuple[Any, str]] = {
    "learn": (ShardModel, "learn"),
    "learn: sample": (Sample, "fold"),
    "learn: steps": (Learner, "settle"),
    "learn: grading": (Grading, "_turn"),
    "score": (ShardModel, "expect"),
    "score: model": (shard_model, "potential_beside"),
    "score: moved_by": (shard_model, "moved_by"),
    "ranks": (Ranks, "move"),
    "percentile": (Percentiles, "of"),
    "pieces": (ShardModel, "changes"),
}


@contextmanager
def watched(name: str, spent: dict[str, float]) -> Iterator[None]:
    """Add up the CPU time of a function while the context lasts."""
    owner, attribute = WATCHED[name]
    function: Callable[..., Any] = getattr(owner, attribute)

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.process_time() - begin

    setattr(owner, attribute, timed)
    try:
        yield
    finally:
        setattr(owner, attribute, function)


def one_round(values: list[bytes], settings: Settings, size: int) -> dict[str, float]:
    """Give us of CPU an event of all orders once."""
    decoder = Decoder("orders", settings.vocabulary, settings.max_event_bytes)
    memory = ShardMemory(0, settings, "bench", ShardRecord(), Pool())
    memory.join_pool()
    spent = dict.fromkeys(WATCHED, 0.0)
    with ExitStack() as stack:
        for name in WATCHED:
            stack.enter_context(watched(name, spent))
        for start in range(0, len(values), size):
            decoded = decoder.decode(values[start : start + size], time.time_ns() // 1_000_000)
            new = memory.unknown(decoded.customer)
            memory.add_customers(new, [None] * len(new))
            part = memory.fold("orders", decoded)
            memory.commit(memory.score([part], memory.max_event_at), {})
    return {name: seconds / len(values) * 1e6 for name, seconds in spent.items()}


def cost(outcome: Outcome) -> None:
    """Measure, print, and hold to the bound."""
    values = [event.value for event in presets.cdnow(lifetimes_data("CDNOW_master.txt"))]
    settings = load_settings(vocabulary={"base_currency": "USD"}, partitions=1)
    print(f"\nus of CPU an event, {len(values)} orders of CDNOW in one shard, in process")
    print("  batch  " + "".join(f"{name:>16}" for name in WATCHED))
    for size in SIZES:
        rounds = [one_round(values, settings, size) for _ in range(ROUNDS)]
        least = {name: float(np.min([each[name] for each in rounds])) for name in WATCHED}
        print(f"  {size:<7}" + "".join(f"{number:16.2f}" for number in least.values()))
        outcome.values[f"cost in batches of {size}"] = least
        both = least["learn"] + least["score"]
        outcome.bound(f"us of CPU to learn and score, batches of {size}", both, 0, MOST_US)


def main() -> int:
    outcome = Outcome()
    cost(outcome)
    for line in outcome.missed:
        print("missed: " + line)
    return 1 if outcome.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
