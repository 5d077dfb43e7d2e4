"""What is learned of signals: planted effects are found, others are not, and bytes come back."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.support.shop import MODEL, Planted, Shop, simulate
from valuetide.scoring.lifetime import evidence_learner
from valuetide.scoring.lifetime.evidence import NOTHING, Rates, log_odds_gained
from valuetide.scoring.lifetime.evidence_learner import Evidence, candidate_rates, proven_rates

TELLING = (Planted(0, 1.0, 2.0, 0.25, 0.25), Planted(2, 0.5, 20.0, 8.0, 1.0))
SILENT = (Planted(0, 1.0, 2.0), Planted(2, 0.5, 20.0))


@cache
def shop(planted: tuple[Planted, ...], seed: int = 1) -> Shop:
    return simulate(seed, planted)


def days(of: Shop) -> Iterator[tuple[slice, slice]]:
    for day in range(int(of.day[0]), int(of.day[-1]) + 1):
        yield (
            slice(*np.searchsorted(of.day, [day, day + 1])),
            slice(*np.searchsorted(of.signal_day, [day, day + 1])),
        )


def orders_into(evidence: Evidence, who: np.ndarray, day: np.ndarray) -> None:
    """As a shard does it, but with parameters of purchases that are known."""
    while day.size:
        until = evidence.until_check(day)
        evidence.fold_orders(who[:until], day[:until])
        if until < day.size:
            evidence.check(MODEL, int(day[until]))
        who, day = who[until:], day[until:]


def learned(
    of: Shop, cut: int = 10**9, *, shard: int | None = None, restart: bool = False
) -> Evidence:
    """``cut``: events a batch at most. ``shard``: of two, by customer."""
    evidence = Evidence()
    for orders, signals in days(of):
        who, day = of.who[orders].astype(np.uint64), of.day[orders]
        whose = of.signal_who[signals].astype(np.uint64)
        kind, at = of.signal_kind[signals], of.signal_day[signals]
        if shard is not None:
            mine, said = who % np.uint64(2) == shard, whose % np.uint64(2) == shard
            who, day, whose, kind, at = who[mine], day[mine], whose[said], kind[said], at[said]
        for start in range(0, day.size, cut):
            orders_into(evidence, who[start : start + cut], day[start : start + cut])
        for start in range(0, at.size, cut):
            part = slice(start, start + cut)
            evidence.fold_signals(whose[part], kind[part], at[part])
        if restart:
            evidence = Evidence.decode(evidence.encode())
    return evidence


def test_planted_effects_are_found_and_others_are_not() -> None:
    rates = proven_rates([learned(shop(TELLING))])
    found = np.exp(rates.log_ratio)
    assert (found[0] < 0.5).all()
    assert found[2, 0] > 3.0
    assert (found[[1, 3]] == 1.0).all()
    assert rates.shape[0] == pytest.approx(1.0, abs=0.4)
    assert rates.shape[0] / rates.rate[0] == pytest.approx(0.5, rel=0.15)


def test_signals_that_tell_nothing_change_nothing() -> None:
    evidence = learned(shop(SILENT))
    assert evidence.checks > 10
    assert candidate_rates([evidence]).silent
    assert proven_rates([evidence]) is NOTHING


def test_what_is_beyond_doubt_is_not_used_before_it_has_helped() -> None:
    evidence = learned(shop(TELLING))
    assert not candidate_rates([evidence]).silent
    evidence.gain = 2.0 * np.sqrt(evidence.square)
    assert proven_rates([evidence]) is NOTHING


def test_what_ceases_to_help_is_no_longer_used() -> None:
    """From some day on it is those of whom signals say that they left who buy."""
    evidence = learned(shop(TELLING))
    rates = proven_rates([evidence])
    assert not rates.silent
    for turn in range(4):
        day = evidence.next_check
        gone = log_odds_gained(rates, matured(evidence, day).counts).sum(axis=0) > 0.5
        evidence.members["last_day"][gone] = day - 1 - turn % 2
        evidence.check(MODEL, day)
    assert evidence.gain < 0
    assert proven_rates([evidence]) is NOTHING


def matured(evidence: Evidence, day: int) -> evidence_learner._Matured:
    return evidence._matured(MODEL, evidence.members, day)


@pytest.mark.parametrize("cut", [1, 7])
def test_cuts_and_restarts_change_nothing(cut: int) -> None:
    of = shop(TELLING, 3)
    some = Shop(of.who[:3000], of.day[:3000], of.amount[:3000], of.signal_who[:4000],
                of.signal_kind[:4000], of.signal_day[:4000], of.left_day)  # fmt: skip
    straight = learned(some)
    assert straight.checks >= 3
    assert learned(some, cut, restart=True).encode() == straight.encode()


def test_shards_together_know_what_one_would() -> None:
    of = shop(TELLING)
    halves = [learned(of, shard=part) for part in (0, 1)]
    together, alone = proven_rates(halves), proven_rates([learned(of)])
    np.testing.assert_allclose(together.log_ratio, alone.log_ratio, atol=0.5)
    assert np.array_equal(together.log_ratio == 0, alone.log_ratio == 0)
    heads = [Evidence.decode_head(half.encode())[0] for half in halves]
    assert proven_rates(heads).log_ratio.tolist() == together.log_ratio.tolist()


def test_one_check_finds_the_maximum_that_scipy_finds() -> None:
    """The likelihood is written down again, with the recalibration beside the log ratios."""
    evidence = learned(shop(TELLING))
    of = matured(evidence, evidence.next_check)
    rates = evidence_learner._lived_through([evidence])
    empty = np.zeros(8), np.zeros((8, 8))
    natural, information = evidence_learner._approximation(of, rates, *empty)

    def loss(at: np.ndarray) -> float:
        ratios = Rates(rates.shape, rates.rate, at[:8].reshape(4, 2))
        odds = of.odds + log_odds_gained(ratios, of.counts).sum(axis=0)
        odds = odds + at[8] + at[9] * of.odds + at[10] * np.log1p(of.counts.weeks.sum(axis=0))
        chance = of.buys / (1 + np.exp(odds))
        likelihood = np.where(of.bought, np.log(chance), np.log1p(-chance)).sum()
        return float(at @ at / 2 - likelihood)

    best = minimize(loss, np.zeros(11), method="BFGS", options={"gtol": 1e-5}).x
    mean = np.linalg.solve(information + np.eye(8), natural)
    np.testing.assert_allclose(mean, best[:8], atol=2e-3)
    assert (np.linalg.eigvalsh(information) > -1e-9).all()


def test_nobody_knows_anything_at_the_start() -> None:
    assert proven_rates([]) is NOTHING
    assert proven_rates([Evidence()]) is NOTHING
    assert candidate_rates([Evidence()]).silent


def test_the_panel_stays_within_its_size() -> None:
    evidence = Evidence(size=50)
    of = shop(SILENT)
    evidence.fold_orders(of.who.astype(np.uint64), np.full(of.who.size, 15_000))
    assert evidence.members.size == 50
    assert len(evidence.encode()) == 804 + 50 * 80


@pytest.mark.parametrize("blob", [b"", b"\x07\x00" + bytes(802), Evidence().encode() + b"x"])
def test_strange_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="evidence"):
        Evidence.decode(blob)
