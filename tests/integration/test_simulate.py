"""A simulated shop through broker and worker: what arrives is what its truth says."""

import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.pipeline import Pipeline, cli, end, start_cli, wait_until
from valuetide.schemas.topics import INPUTS
from valuetide.streams.simulate.scenario import make_scenario
from valuetide.streams.simulate.shop import Shop

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

OPTIONS = (
    *("--customers", "400", "--days", "60", "--seed", "7"),
    *(
        "--shift",
        "level:-30%@40",
        "--outage",
        "interactions@30+12h",
        "--campaign",
        "may:+20%@20+10",
    ),
    *("--duplicates", "1%", "--late", "2%", "--bad", "0.5%"),
)
GIVEN = {
    "customers": 400, "days": 60, "seed": 7, "campaigns": ["may:+20%@20+10"],
    "shifts": ["level:-30%@40", "interactions@30+12h"],
    "noise": {"duplicates": 0.01, "late": 0.02, "bad": 0.005},
}  # fmt: skip


def test_a_worker_counts_what_the_truth_says(pipeline: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    with pipeline.worker():
        done = cli(pipeline.environment, "simulate", *OPTIONS, "--truth", str(file), "--json")
        assert done.returncode == 0, done.stderr
        summary, truth = json.loads(done.stdout), json.loads(file.read_text())
        messages = truth["messages"]
        assert truth["complete"]
        for role in INPUTS:
            topic = getattr(pipeline.settings.topics, role)
            assert summary["topics"][topic] == messages[role]["sent"]
        assert summary["events"] > 2_000
        wait_until(lambda: pipeline.progress() == summary["events"], "all is accounted for")
    for role in INPUTS:
        want = messages[role]
        assert pipeline.count("folded", role) == want["events"]
        assert pipeline.count("duplicate", role) == want["duplicates"]
        assert pipeline.count("dead_letter", role) == want["bad"]
    assert messages["interactions"]["withheld"] > 0
    kinds = messages["orders"]["kinds"]
    totals = pipeline.overview().totals
    assert totals["orders"] == kinds["placed"] - kinds["cancelled"]
    bought = truth["customers"]
    placed = {
        who: count
        for who, count in zip(bought["customer_id"], bought["orders"], strict=True)
        if count
    }
    state = pipeline.state()
    assert {who for who, score in state.items() if score["first_order_at"] or score["refunds"]} <= (
        placed.keys()
    )
    assert placed.keys() <= state.keys()
    assert all(state[who]["orders"] <= count for who, count in placed.items())


def test_stopped_by_a_signal_and_gone_on_with_each_message_arrives_as_in_one_run(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    state, file = tmp_path / "state.json", tmp_path / "truth.json"
    options = [*OPTIONS, "--resume", str(state), "--truth", str(file)]
    process = start_cli(pipeline.environment, "simulate", *options, "--rate", "1000")
    try:

        def has_sent() -> bool:
            return state.exists() and json.loads(state.read_text())["acknowledged"] > 0

        wait_until(has_sent, "a position is kept")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        end(process)
    assert process.returncode == 130
    assert "give the same command again" in err
    assert not json.loads(file.read_text())["complete"]
    done = cli(pipeline.environment, "simulate", *options)
    assert done.returncode == 0, done.stderr
    assert "sent before" in done.stdout
    shop = Shop(make_scenario(None, GIVEN))
    want = Counter((role, event.value) for role, event in shop.events())
    found = Counter(
        (role, message.value)
        for role in INPUTS
        for message in pipeline.messages(getattr(pipeline.settings.topics, role))
    )
    assert found == want
    assert json.loads(file.read_text()) == json.loads(json.dumps(shop.truth()))
