"""Interactions and feedback in p_alive: only where the settings say so and it has helped."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from tests.support.fakes import START_SECONDS, World, customers_of, run_quickly, shard_settings
from tests.support.shop import MODEL, Planted, simulate
from tests.unit.streams.helpers import DAY_SECONDS, answer, order, stored_rows, visit
from valuetide.schemas.errors import FaultError
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.scoring.lifetime.evidence import Counts, log_odds_gained
from valuetide.scoring.lifetime.evidence_learner import Evidence, proven_rates
from valuetide.scoring.lifetime.evidence_pieces import (
    HEAD,
    PIECES,
    EvidencePieces,
    assemble_evidence,
)
from valuetide.scoring.lifetime.grading import Grading
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.purchases import Histories, log_odds_of_leaving
from valuetide.scoring.lifetime.ranks import Ranks
from valuetide.scoring.signals import BLAME, CONTACT, ENGAGEMENT, NO_SIGNAL, PRAISE
from valuetide.streams.cli.model import model_as_json, model_lines
from valuetide.streams.decode import Decoder, Role
from valuetide.streams.metrics import ModelCollector
from valuetide.streams.pool import Pool, Share, pooled_knowledge
from valuetide.streams.reader import Learned
from valuetide.streams.store import Commit
from valuetide.streams.store.memory import MemoryStore

NOW_MS = 1_800_000_000_000


@cache
def learned() -> Evidence:
    """Visits and bad ratings tell something, by a simulated shop."""
    of = simulate(1, (Planted(0, 1.0, 2.0, 0.25, 0.25), Planted(2, 0.5, 20.0, 8.0, 1.0)))
    evidence = Evidence()
    for day in range(int(of.day[0]), int(of.day[-1]) + 1):
        orders = slice(*np.searchsorted(of.day, [day, day + 1]))
        signals = slice(*np.searchsorted(of.signal_day, [day, day + 1]))
        if evidence.until_check(of.day[orders]) < orders.stop - orders.start:
            evidence.check(MODEL, day)
        evidence.fold_orders(of.who[orders].astype(np.uint64), of.day[orders])
        who = of.signal_who[signals].astype(np.uint64)
        evidence.fold_signals(who, of.signal_kind[signals], of.signal_day[signals])
    assert not proven_rates([evidence]).silent
    evidence.next_check = 1 << 40
    return evidence


def world_with(evidence: str, model: dict[str, bytes] | None = None) -> World:
    world = World(settings=shard_settings(evidence=evidence))
    if model:
        mark = "partitions=4 half_life_days=90 base_currency=EUR minor_digits=2"
        commit = Commit(0, 1, "x", {"settings": mark}, {}, [], [], [], {}, model)
        run_quickly(MemoryStore.commit(world.store, commit))
    return world


async def one_customer(world: World) -> dict[str, Any]:
    """Two orders 70 days apart, a visit between, then a visit, a bad word, and four weeks."""
    (ann,) = customers_of(0, 4, 1)
    await world.shard.open()
    events: tuple[tuple[Role, dict[str, Any]], ...] = (
        ("orders", order(ann, 1, occurred_at=at(0))),
        ("interactions", visit(ann, 2, occurred_at=at(10))),
        ("orders", order(ann, 3, occurred_at=at(70))),
        ("interactions", visit(ann, 4, occurred_at=at(71))),
        ("feedback", answer(ann, 5, occurred_at=at(72), score=1)),
        ("interactions", visit(ann, 6, occurred_at=at(105), kind="exposure")),
    )
    for role, event in events:
        world.flow.add(role, event)
        await world.drain()
    return stored_rows(world)[ann]


def at(day: int) -> float:
    return float(START_SECONDS + DAY_SECONDS * (day - 200))


def test_survival_is_that_of_purchases_and_signals_together() -> None:
    model = EvidencePieces({}).changes(learned())
    base = run_quickly(one_customer(world_with("off")))
    off = run_quickly(one_customer(world_with("off", model)))
    world = world_with("auto", model)
    told = run_quickly(one_customer(world))
    assert off["p_alive"] == base["p_alive"]

    today = at(105) / DAY_SECONDS
    first, last = int(at(0) // DAY_SECONDS), int(at(70) // DAY_SECONDS)
    seen = Histories(np.array([1]), np.array([(last - first) / 7]), np.array([(today - first) / 7]))
    weeks = np.array([[4.0], [(today - last) / 7 - 4.0]])
    since = np.zeros((4, 2, 1))
    since[ENGAGEMENT, 0] = since[BLAME, 0] = 1.0
    before = np.eye(4)[ENGAGEMENT][:, None]
    counts = Counts(since, weeks, before, np.array([(last - first) / 7]))
    gained = log_odds_gained(proven_rates([learned()]), counts).sum()
    known = world.shard._memory._pool.at(int(at(105) * 1000))
    odds = log_odds_of_leaving(known.parameters.purchases, seen)[0]
    assert base["p_alive"] == pytest.approx(1 / (1 + np.exp(odds)), abs=1e-4)
    assert told["p_alive"] == pytest.approx(1 / (1 + np.exp(odds + gained)), abs=1e-4)
    ratio = told["p_alive"] / base["p_alive"]
    assert abs(ratio - 1) > 0.01
    for name in ("clv_90d", "clv_365d", "expected_orders_90d"):
        assert told[name] == pytest.approx(base[name] * ratio, rel=2e-3, abs=5e-3)
    assert told["expected_order_value"] == base["expected_order_value"]


def test_a_batch_of_all_topics_splits_the_change_exactly() -> None:
    """A return, a visit and a rating that arrive together move a value by their sum."""
    (ann,) = customers_of(0, 4, 1)

    world = world_with("auto", EvidencePieces({}).changes(learned()))

    async def scenario() -> None:
        await world.shard.open()
        for number, day in ((1, 0), (2, 70)):
            world.flow.add("orders", order(ann, number, occurred_at=at(day)))
        await world.drain()
        before = stored_rows(world)[ann]
        world.flow.add("feedback", answer(ann, 3, occurred_at=at(98), score=1))
        world.flow.add("orders", order(ann, 4, kind="returned", order_id="o2", amount=3.0))
        world.flow.add("interactions", visit(ann, 5, occurred_at=at(99)))
        world.trace.clear()
        await world.drain()
        assert sum(entry[0] == "commit" for entry in world.trace) == 1
        now = stored_rows(world)[ann]
        parts = {name: now[name] for name in now if name.startswith("moved_by_")}
        assert round(sum(parts.values()), 6) == round(now["clv_365d"] - before["clv_365d"], 6)
        for part in ("returns", "time", "interactions", "feedback"):
            assert parts[f"moved_by_{part}"] != 0.0

    run_quickly(scenario())


def test_what_signals_tell_is_shown_and_measured() -> None:
    share = Share(Learner(), 20, Grading((90,), {}), Ranks(), learned())
    knowledge = pooled_knowledge({0: share})
    text = "\n".join(
        model_lines(Learned(knowledge, 20, 9, {}, corrected=True, currency="EUR"), None)
    )
    assert "evidence   in force: log probability of what came +" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["engagement"][-1] == rows["blame"][-1] == "yes"
    assert rows["praise"][-3:] == ["not", "beyond", "doubt"]
    # The shop was simulated with a quarter of the visits and eight times the bad ratings.
    early, late = map(float, rows["engagement"][3:5])
    assert early < 0.5 and late < 0.5
    assert float(rows["blame"][3]) > 2.0

    shown = model_as_json(Learned(knowledge, 20, 9, {}, corrected=True, currency="EUR"), None)
    told = shown["evidence"]
    assert told["in_force"]
    assert told["gain"] > 3 * told["gain_sd"]
    signal = told["signals"]["engagement"]
    assert signal["ratio_first_weeks"] == pytest.approx(early, abs=0.005)

    registry = CollectorRegistry()
    registry.register(ModelCollector(lambda: knowledge))

    def gauge(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"valuetide_model_evidence_{name}", labels)

    assert gauge("in_force") == 1.0
    assert gauge("gain_nats") == told["gain"]
    assert gauge("purchases") == told["purchases"]
    ratio = gauge("rate_ratio", signal="engagement", period="first_weeks")
    assert ratio == signal["ratio_first_weeks"]
    assert gauge("beyond_doubt", signal="praise") == 0.0
    assert gauge("days", signal="engagement") == signal["days"]


def test_without_signals_there_is_nothing_to_show() -> None:
    knowledge = pooled_knowledge({0: Share(Learner(), 20, Grading((90,), {}), Ranks())})
    shown = Learned(knowledge, 20, 9, {}, corrected=True, currency="EUR")
    assert "evidence   not learned, see the setting evidence" in model_lines(shown, None)
    assert model_as_json(shown, None)["evidence"] is None
    registry = CollectorRegistry()
    registry.register(ModelCollector(lambda: knowledge))
    assert not [m for m in registry.collect() if "evidence" in m.name]


def test_without_proof_auto_is_off_and_off_writes_nothing() -> None:
    off, auto = world_with("off"), world_with("auto")
    assert run_quickly(one_customer(off)) == run_quickly(one_customer(auto))
    of_off = run_quickly(off.record()).model
    assert not any(name.startswith(HEAD) for name in of_off)
    evidence = assemble_evidence(run_quickly(auto.record()).model)
    assert evidence is not None
    (member,) = evidence.members
    assert (member["x"], member["signals"]["early"].tolist()) == (1, [1, 0, 1, 0])
    assert member["signals"]["before"].tolist() == [1, 0, 0, 0]


def test_a_restart_goes_on_where_it_was() -> None:
    """Events come one by one, for how topics are mixed matters to what is counted since when."""

    async def scenario(restart_at: int) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
        world = world_with("auto")
        ids = customers_of(0, 4, 20)
        rng = np.random.default_rng(8)
        await world.shard.open()
        for number in range(120):
            if number == restart_at:
                assert await world.shard.close(1.0)
                world.shard = world.make_shard("another")
                await world.shard.open()
            who, when = ids[rng.integers(20)], at(0) + number * 1.5 * DAY_SECONDS
            if rng.random() < 0.5:
                world.flow.add("orders", order(who, number, occurred_at=when))
            else:
                world.flow.add("interactions", visit(who, number, occurred_at=when))
            await world.drain()
        return (await world.record()).model, stored_rows(world)

    straight, restarted = run_quickly(scenario(-1)), run_quickly(scenario(70))
    assert straight == restarted
    evidence = assemble_evidence(straight[0])
    assert evidence is not None
    assert evidence.checks >= 3


def test_what_the_panel_missed_while_it_was_off_is_not_taken_for_silence() -> None:
    """Switched off it is forgotten, so that it begins anew when it is switched on again."""
    world = world_with("off", EvidencePieces({}).changes(learned()))
    run_quickly(one_customer(world))
    model = run_quickly(world.record()).model
    assert model[HEAD] == b""
    assert assemble_evidence(model) is None


def test_pieces_written_as_they_change_are_the_whole() -> None:
    rng = np.random.default_rng(4)
    evidence, kept = Evidence(size=100), dict[str, bytes]()
    written = EvidencePieces({})
    for start in range(0, 300, 30):
        who = rng.integers(0, 2**63, 30, np.int64).astype(np.uint64)
        evidence.fold_orders(who, np.full(30, start))
        changes = written.changes(evidence)
        assert 0 < len(changes) < PIECES + 1
        kept |= changes
        restored = assemble_evidence(kept)
        assert restored is not None
        assert restored.encode() == evidence.encode()
    assert EvidencePieces(kept).changes(evidence) == {}
    with pytest.raises(ValueError, match="without a head"):
        assemble_evidence(kept | {HEAD: b""})
    with pytest.raises(ValueError, match="evidence"):
        assemble_evidence(kept | {"evidence:00": b"x" * 81})


def test_shards_score_with_what_all_have_learned_of_signals() -> None:
    async def scenario() -> None:
        store, pool = MemoryStore(), Pool(lambda: 0.0)
        share = Share(Learner(), 1, Grading((90,), {}), Ranks(), Evidence())
        assert pool.knowledge.rates.silent
        pool.put(0, share)
        assert pool.knowledge.rates.silent
        pieces = {"head": Learner().encode_head(), HEAD: learned().encode_head()}
        await store.commit(Commit(1, 1, "w", {}, {}, [], [], [], {}, pieces))
        await pool.refresh(store, 2, 10.0, (90,), 0)
        wanted = proven_rates([learned()]).log_ratio
        assert pool.knowledge.rates.log_ratio.tolist() == wanted.tolist()
        pool.release(0)
        assert pool.knowledge.rates.log_ratio.tolist() == wanted.tolist()
        await store.commit(Commit(2, 1, "w", {}, {}, [], [], [], {}, pieces | {HEAD: b"short"}))
        pool.put(0, share)
        with pytest.raises(FaultError, match="partition 2"):
            await pool.refresh(store, 3, 10.0, (90,), 0)

    run_quickly(scenario())


# -- which events are signals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "signal"),
    [("visit", ENGAGEMENT), ("referral", ENGAGEMENT), ("contact", CONTACT), ("complaint", CONTACT),
     ("exposure", NO_SIGNAL)],
)  # fmt: skip
def test_interactions_are_signals_by_kind(kind: str, signal: int) -> None:
    decoder = Decoder("interactions", Vocabulary(), 4_096)
    events = [json.dumps(visit("ann", n, kind=kind)).encode() for n in range(2)]
    assert decoder.decode(events, NOW_MS).signal.tolist() == [signal] * 2


def test_a_shop_says_which_of_its_kinds_are_signals() -> None:
    words = Vocabulary(interaction_kinds=("visit", "chat"), signals={"chat": "contact"})
    decoder = Decoder("interactions", words, 4_096)
    events = [json.dumps(visit("ann", 1, kind=kind)).encode() for kind in ("chat", "visit", "fax")]
    assert decoder.decode(events, NOW_MS).signal.tolist() == [CONTACT, NO_SIGNAL]
    with pytest.raises(ValueError, match="chat is not among interaction_kinds"):
        Vocabulary(signals={"chat": "contact"})


@pytest.mark.parametrize(
    ("values", "signal"),
    [
        ({"score": 1}, BLAME), ({"score": 2}, BLAME), ({"score": 3}, NO_SIGNAL),
        ({"score": 4}, PRAISE), ({"score": 5}, PRAISE),
        ({"kind": "nps", "score": 6, "scale": [0, 10]}, BLAME),
        ({"kind": "nps", "score": 7, "scale": [0, 10]}, NO_SIGNAL),
        ({"kind": "nps", "score": 8, "scale": [0, 10]}, NO_SIGNAL),
        ({"kind": "nps", "score": 9, "scale": [0, 10]}, PRAISE),
        ({"kind": "complaint", "score": 5}, BLAME),
        ({"score": 1, "subject": "us"}, BLAME), ({"score": 1, "subject": "them"}, NO_SIGNAL),
        ({"score": 1, "subject": None}, BLAME),
    ],
)  # fmt: skip
def test_feedback_is_a_good_or_a_bad_word_about_us(values: dict[str, Any], signal: int) -> None:
    decoder = Decoder("feedback", Vocabulary(), 4_096)
    event = json.dumps(answer("ann", 1, **values)).encode()
    assert decoder.decode([event, b"bad", event], NOW_MS).signal.tolist() == [signal] * 2
