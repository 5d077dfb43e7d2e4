"""Alerts as a shard or the watch would commit them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from valuetide.streams.store import AlertStep, Commit
from valuetide.streams.store.redis import RedisStore, connect

EXAMPLES = Path(__file__).parents[1] / "examples" / "alerts"
LEVEL: dict[str, Any] = json.loads((EXAMPLES / "level.json").read_text("utf-8"))
AT_RISK: dict[str, Any] = json.loads((EXAMPLES / "at_risk.json").read_text("utf-8"))


def number(value: int) -> str:
    """Give an id or a fingerprint."""
    return f"{value:016x}"


def alert(step: int, fingerprint: str = LEVEL["fingerprint"], **changes: Any) -> dict[str, Any]:
    """Give a step of an alert about revenue, unless ``changes`` say otherwise."""
    return LEVEL | {"id": number(step), "fingerprint": fingerprint} | changes


async def commit_alerts(
    url: str, prefix: str, steps: Sequence[dict[str, Any]], partition: int = 0
) -> None:
    """Commit steps as a shard does, through the store, as a writer of their own."""
    store = RedisStore(connect(url), prefix=prefix, columns=(), texts=(), ranked=(), top_size=1)
    try:
        record = await store.read_shard(partition)
        await store.commit(
            Commit(
                partition=partition,
                sequence=record.sequence + 1,
                writer="test",
                fields={},
                months={},
                ids=[],
                states=[],
                rows=[],
                top={},
                alerts=[
                    AlertStep(step["fingerprint"], json.dumps(step), step["state"] != "resolved")
                    for step in steps
                ],
            )
        )
    finally:
        await store.close()
