"""Shards that share expansions of their likelihoods find what one learner of everybody finds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.support import lifetime_reference as reference
from tests.unit.scoring.lifetime.test_learner import SHOP, learned
from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.lifetime.expansion import Expansion, Quadratic, joint_maximum
from valuetide.scoring.lifetime.learner import Learner, pooled, pooled_by_expansions
from valuetide.scoring.lifetime.parameters import (
    PURCHASES_MEAN,
    PURCHASES_SD,
    SPEND_MEAN,
    SPEND_SD,
    Parameters,
)
from valuetide.scoring.lifetime.sample import Orders

SHARDS = 4
Likelihood = Callable[[FloatArray, reference.Summary], FloatArray]


def shards_of(orders: Orders, **of: int) -> list[Learner]:
    """Learners of a quarter of the customers each."""
    of = {"shards": SHARDS, **of}
    return [learned(orders[orders.who % SHARDS == n], 10**6, **of) for n in range(SHARDS)]


def settled(
    shards: list[Learner], customers: list[int], times: int
) -> tuple[Parameters, list[Expansion | None]]:
    """Parameters of all after each shard has settled some times at the end of the last day."""
    day = max(shard.day for shard in shards)
    expansions: list[Expansion | None] = [None] * len(shards)
    at = pooled(shards, customers)
    for _ in range(times):
        for shard in shards:
            shard.settle(day)
        expansions = [shard.expand(at) for shard in shards]
        at = pooled_by_expansions(shards, customers, expansions)
    return at, expansions


def test_shards_stand_at_the_maximum_of_all_customers() -> None:
    """As scipy finds it; the average of their own parameters does not."""
    shards = shards_of(SHOP)
    sizes = [shard.sample.members.size for shard in shards]
    found = settled(shards, sizes, 5)[0]
    until = max(shard.day for shard in shards) + 1
    seen = reference.summarise(SHOP.who.astype(int), SHOP.day, SHOP.amount, until)
    typical = np.average([np.log(shard.typical_spend) for shard in shards], weights=sizes)
    for logs, average, function, mean, sd in zip(
        found.logs(),
        pooled(shards, sizes).logs(),
        (reference.mbg_log_likelihood, reference.gamma_gamma_log_likelihood),
        (PURCHASES_MEAN, SPEND_MEAN + np.array([0.0, 0.0, typical])),
        (PURCHASES_SD, SPEND_SD),
        strict=True,
    ):

        def loss(at: FloatArray, of: Likelihood, mean: FloatArray, sd: FloatArray) -> float:
            return float((((at - mean) / sd) ** 2).sum() / 2 - of(np.exp(at), seen).sum())

        best = minimize(loss, logs, (function, mean, sd), "BFGS", options={"gtol": 1e-4}).x
        np.testing.assert_allclose(logs, best, atol=2e-4)
        assert np.abs(average - best).max() > 0.02


def test_a_full_sample_stands_for_its_customers() -> None:
    """As often as it has customers for a member."""
    shards = shards_of(SHOP, size=250)
    day = max(shard.day for shard in shards)
    for shard in shards:
        shard.settle(day)
    at = pooled(shards)
    expansions = [shard.expand(at) for shard in shards]
    assert all(one is not None and one.members == 250 for one in expansions)
    known = [one.purchases for one in expansions if one is not None]
    for counts in ([250] * 4, [250, 500, 250, 750]):
        found = pooled_by_expansions(shards, counts, expansions).logs()[0]
        near = pooled(shards, counts).logs()[0]
        # Copies of a shard in place of a weight.
        copies = [
            one for one, count in zip(known, counts, strict=True) for _ in range(count // 250)
        ]
        wanted = joint_maximum(copies, [1.0] * len(copies), PURCHASES_MEAN, PURCHASES_SD, near)
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        assert np.abs(found - near).max() > 1e-3


def test_without_all_expansions_parameters_are_averaged() -> None:
    shards = shards_of(SHOP)
    sizes = [shard.sample.members.size for shard in shards]
    found, expansions = settled(shards, sizes, 1)
    average = pooled(shards, sizes)
    assert found != average
    assert pooled_by_expansions(shards, sizes, [None, *expansions[1:]]) == average
    # A shard without customers has nothing to expand, and is not waited for.
    more = [*shards, Learner(shards=SHARDS)]
    assert more[-1].expand(average) is None
    assert pooled_by_expansions(more, [*sizes, 0], [*expansions, None]) == found
    assert pooled_by_expansions([], [], []) == pooled([])


def test_a_maximum_far_away_is_not_believed() -> None:
    near, mean, sd = np.full(2, 0.25), np.zeros(2), np.ones(2)

    def maximum(slope: float, curvature: float) -> list[float]:
        part = Quadratic(near, np.full(2, slope), np.eye(2) * curvature)
        found: list[float] = joint_maximum([part], [1.0], mean, sd, near).tolist()
        return found

    assert maximum(1.0, 1.0) == pytest.approx([0.625, 0.625])
    assert maximum(9.0, 1.0) == near.tolist()  # far
    # A minimum, and a surface that is flat: uphill.
    assert maximum(1.0, -2.0) == pytest.approx([1.0, 1.0])
    assert maximum(1.0, -1.0) == pytest.approx([1.0, 1.0])
    assert maximum(-1.0, -2.0) == near.tolist()  # uphill, but far


def test_learning_does_not_depend_on_what_is_asked() -> None:
    """Nor is anything given twice, or before somebody has ordered twice for spend."""
    asked, plain = Learner(), Learner()
    for start in range(0, SHOP.day.size, 100):
        for learner in (asked, plain):
            learner.learn(SHOP[start : start + 100])
        asked.expand(plain.parameters)
        assert asked.expand(plain.parameters) is None
    assert asked.encode() == plain.encode()
    once = Learner()
    once.learn(Orders(np.arange(20, dtype=np.uint64), np.zeros(20, int), np.ones(20)))
    once.settle(7)
    expansion = once.expand(once.parameters)
    assert expansion is not None
    assert not expansion.spend.curvature.any()
    assert not expansion.spend.slope.any()


def test_bytes_come_back() -> None:
    expansion = settled(shards_of(SHOP), [1] * SHARDS, 1)[1][0]
    assert expansion is not None
    blob = expansion.encode()
    assert len(blob) == 248
    again = Expansion.decode(blob)
    assert again.members == expansion.members
    for one, two in ((again.purchases, expansion.purchases), (again.spend, expansion.spend)):
        np.testing.assert_array_equal(one.at, two.at)
        np.testing.assert_array_equal(one.slope, two.slope)
        np.testing.assert_allclose(one.curvature, two.curvature, rtol=1e-12)
    assert replace(again, members=7).encode() != blob
    with pytest.raises(ValueError, match="247 bytes"):
        Expansion.decode(blob[:-1])
    with pytest.raises(ValueError, match="layout 9"):
        Expansion.decode(b"\x09" + blob[1:])
