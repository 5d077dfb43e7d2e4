"""What must be true after a run, from the seed alone: nothing lost, nothing counted twice."""

import re
import time
from collections import Counter
from typing import Any

from tests.chaos.load import bad_ids, cohort_events
from tests.chaos.stage import Stage
from tests.support.pipeline import Facts, Pipeline, check_state, run
from valuetide.schemas.score import Score
from valuetide.streams.deadletters import read_dead_letters

TIMELESS = (
    "version",
    "orders",
    "revenue",
    "refunds",
    "margin",
    "cost_to_serve",
    "profit",
    "first_order_at",
    "last_order_at",
    "frequency",
    "monetary_value",
)
"""Fields that a score of the same events has in common with any other, whenever it was made."""

CALM_SECONDS = 1.5
BAD_ID = re.compile(rb"bad-\d+-\d+\.")


def sent_events(seed: int, cohorts: int) -> list[Facts]:
    """Give all distinct events of a run."""
    return [facts for number in range(cohorts) for facts in cohort_events(seed, number)]


def wait_until_done(stage: Stage, distinct: int, limit_seconds: float) -> bool:
    """Wait until all that was acknowledged is committed, strays included; whether it is."""
    ends = stage.acknowledged_ends()
    deadline = time.monotonic() + limit_seconds
    calm_since, before = time.monotonic(), -1
    while time.monotonic() < deadline:
        overview = stage.pipeline.overview()
        total = sum(overview.positions.values())
        if total != before:
            calm_since, before = time.monotonic(), total
        folded = sum(counts.get("folded", 0) for counts in overview.events.values())
        there = all(overview.positions.get(place, 0) >= end for place, end in ends.items())
        if there and folded >= distinct and time.monotonic() - calm_since > CALM_SECONDS:
            return True
        time.sleep(0.2)
    return False


def verify(stage: Stage, events: list[Facts], cohorts: int) -> dict[str, Any]:
    """Compare state, scores and dead letters with a batch recomputation; raise where they differ.

    Gives the counts that were compared.
    """
    pipeline = stage.pipeline
    state = check_state(pipeline, events)
    folded = pipeline.count("folded")
    assert folded == len(events), f"{folded} events counted, {len(events)} were sent"
    compare_scores(pipeline, state)
    bad = [bad for number in range(cohorts) for bad in bad_ids(number)]
    letters = check_dead_letters(pipeline, bad)
    counts = {
        outcome: pipeline.count(outcome)
        for outcome in ("folded", "duplicate", "dead_letter", "rerouted")
    }
    return {"customers": len(state), "letters": letters, **counts}


def compare_scores(pipeline: Pipeline, state: dict[str, Score]) -> None:
    """The highest version of each customer on the topic is what Redis has."""
    newest = pipeline.newest_scores()
    assert newest.keys() == state.keys(), "customers on the topic and in Redis differ"
    wrong = {
        customer: (newest[customer][name], score[name])  # type: ignore[literal-required]
        for customer, score in state.items()
        for name in TIMELESS
        if newest[customer][name] != score[name]  # type: ignore[literal-required]
    }
    assert not wrong, f"scores differ between topic and Redis: {list(wrong.items())[:5]}"


def check_dead_letters(pipeline: Pipeline, bad: list[str]) -> int:
    """Dead letters are those of the bad events and of nothing else, each source once."""

    async def read() -> Counter[str]:
        found: Counter[str] = Counter()
        async for letter in read_dead_letters(pipeline.settings):
            match = BAD_ID.search(letter.value or b"")
            found[match.group().decode() if match else f"not bad: {letter.value!r}"] += 1
        return found

    found = run(read())
    assert found.keys() == set(bad), f"dead letters differ: {list(found.keys() ^ set(bad))[:5]}"
    count = pipeline.count("dead_letter")
    assert found.total() == count, f"{found.total()} dead letters, Redis has counted {count}"
    return found.total()
