"""A flood of what is no event pauses its partition, says why, and nothing is lost by it."""

import json
import time

import pytest

from tests.support.pipeline import Pipeline, Raw, check_state, metric, wait_until
from tests.support.traffic import traffic
from valuetide.streams.local import LocalWorker

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


def paused(worker: LocalWorker) -> bool:
    time.sleep(0.1)  # the interface takes 50 requests a second
    return worker.get("/readyz")[0] == 503


def test_a_flood_pauses_its_shard_and_no_other_until_the_restart(pipeline: Pipeline) -> None:
    """/readyz says why; after a restart with mended settings everything is there."""
    flooded = pipeline.home("ann")
    good = traffic(6, 200)
    elsewhere = [f for f in good if pipeline.home(f[1]["customer_id"]) != flooded]
    here = [f for f in good if pipeline.home(f[1]["customer_id"]) == flooded]
    assert here
    assert elsewhere
    rubbish = Raw("orders", flooded, b"ann", b"not json")
    careful = pipeline.with_settings(dead_letter_run=100, max_batch_events=50)
    with careful.worker() as worker:
        pipeline.produce([rubbish] * 300)
        wait_until(lambda: paused(worker), "the shard pauses")
        why = json.loads(worker.get("/readyz")[1])["why"]
        assert why.startswith(f"partition {flooded}: 1")
        assert "events of orders in a row were rejected, last reason 'value: Invalid JSON" in why
        assert why.endswith("or raise VALUETIDE_DEAD_LETTER_RUN")
        assert metric(worker, "valuetide_paused_shards") == 1
        pipeline.send(good)
        wait_until(lambda: careful.count("folded") == len(elsewhere), "the others go on")
        assert 100 <= careful.count("dead_letter") < 300
        assert worker.get("/healthz")[0] == 200
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        assert metric(worker, "valuetide_paused_shards") == 0
        assert worker.get("/readyz")[0] == 200
    check_state(pipeline, good)
    assert pipeline.count("dead_letter") == len(pipeline.dead_letters()) == 300


def test_a_flood_that_waits_for_the_worker_pauses_it_and_the_pause_ends(
    pipeline: Pipeline,
) -> None:
    """A worker that is paused before it was ever ready says so, and is ready after the pause."""
    flooded = pipeline.home("ann")
    pipeline.produce([Raw("orders", flooded, b"ann", b"not json")] * 120)
    careful = pipeline.with_settings(
        dead_letter_run=100, max_batch_events=50, dead_letter_pause_seconds=3.0
    )
    with careful.worker() as worker:
        wait_until(lambda: paused(worker), "the shard pauses")
        state = json.loads(worker.get("/readyz")[1])
        assert state["paused"] == [flooded]
        assert state["partitions"] == list(range(pipeline.settings.partitions))
        assert state["why"].startswith(f"partition {flooded}: 1")
        wait_until(lambda: worker.get("/readyz")[0] == 200, "the pause is lifted")
        assert json.loads(worker.get("/readyz")[1]) == {
            "ready": True,
            "partitions": list(range(pipeline.settings.partitions)),
        }
        pipeline.finish(worker)
    assert pipeline.count("dead_letter") == 120
