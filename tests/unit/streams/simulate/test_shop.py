"""The shop does what its scenario says: bytes, facts, and the laws behind them."""

import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from tests.support.lifetime_reference import (
    Fit,
    Summary,
    fit,
    gamma_gamma_log_likelihood,
    mbg_log_likelihood,
)
from tests.unit.streams.simulate.helpers import CLEAN, DAY, FLAT, QUIET, Lived, live, usual, values
from valuetide.schemas.topics import INPUTS
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.decode import Decoder
from valuetide.streams.replay.event import MAX_EVENT_BYTES
from valuetide.streams.simulate.scenario import Scenario
from valuetide.streams.simulate.shop import Shop

SMALL: dict[str, Any] = {"name": "s", "customers": 150, "days": 40, "warm_up_days": 20}
SIGMAS = 4.0
"""Standard errors that a figure may be off: by chance one in 16,000 is further away."""


def histories(lived: Lived) -> Summary:
    """Histories at the end, each order by itself: two on one day are two of the model's orders."""
    placed = lived.of("orders", "placed")
    who = np.array([event["customer_id"] for event in placed])
    day = np.array([lived.day(event) for event in placed])
    amount = np.array([event["amount"] for event in placed])
    order = np.lexsort((day, who))
    _, start, count = np.unique(who[order], return_index=True, return_counts=True)
    first, last = day[order][start], day[order][start + count - 1]
    total = np.add.reduceat(amount[order], start)
    end = lived.scenario.days - 1
    repeats = np.array(count - 1, np.float64)
    return Summary(repeats, (last - first) / 7, (end - first) / 7, total - amount[order][start])


# Bytes


def test_the_same_scenario_gives_the_same_bytes_and_another_seed_others() -> None:
    one, same, other = live(**SMALL, seed=1), live(**SMALL, seed=1), live(**SMALL, seed=2)
    assert one.sent == same.sent
    assert one.truth == same.truth
    assert set(values(one)).isdisjoint(values(other))


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import hashlib\n"
        "from valuetide.streams.simulate.scenario import Scenario\n"
        "from valuetide.streams.simulate.shop import Shop\n"
        "shop = Shop(Scenario(name='s', customers=150, days=40, warm_up_days=20))\n"
        "digest = hashlib.sha256()\n"
        "for role, event in shop.events():\n"
        "    digest.update(role.encode() + event.value)\n"
        "print(digest.hexdigest())\n"
    )
    here = hashlib.sha256()
    for role, event in live(**SMALL).sent:
        here.update(role.encode() + event.value)
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == here.hexdigest()


def test_a_planted_shift_changes_nothing_before_its_day() -> None:
    plain = live(**SMALL)
    moved = live(**SMALL, shifts=["level:-50%@20", "level:+50%@25,metric=amount"])

    def before(lived: Lived) -> list[bytes]:
        return [
            event.value
            for (_, event), (_, parsed) in zip(lived.sent, lived.parsed, strict=True)
            if lived.day(parsed) < 20
        ]

    assert before(plain) == before(moved)
    assert plain.sent != moved.sent


# Facts


def test_workers_accept_everything_but_what_was_planted_as_bad() -> None:
    lived = usual()
    for role in INPUTS:
        sent = [event.value for of, event in lived.sent if of == role]
        decoded = Decoder(role, Vocabulary(), MAX_EVENT_BYTES).decode(sent, 1_800_000_000_000)
        assert len(decoded.rejections) == lived.truth["messages"][role]["bad"] > 0
        assert len(decoded.index) == len(sent) - len(decoded.rejections)


def test_the_key_and_the_time_of_a_message_are_those_of_its_event() -> None:
    lived = live(**SMALL)
    for (_, event), (_, parsed) in zip(lived.sent, lived.parsed, strict=True):
        assert event.customer_id == parsed["customer_id"]
        assert event.occurred_at == parsed["occurred_at"]


def test_the_counts_of_the_truth_are_those_of_the_stream() -> None:
    lived = live(**(SMALL | {"customers": 1_000}), noise={"duplicates": 0.05, "late": 0.05})
    for role in INPUTS:
        counts = lived.truth["messages"][role]
        events = lived.of(role)
        ids = Counter(event["event_id"] for event in events)
        assert counts["sent"] == len(events)
        assert counts["events"] == len(ids)
        assert counts["duplicates"] == sum(ids.values()) - len(ids)
        assert counts["bad"] == counts["withheld"] == 0
        one_of_each = {event["event_id"]: event["kind"] for event in events}
        assert counts["kinds"] == Counter(one_of_each.values())
        # Binomial: within four standard deviations of a twentieth.
        n = len(ids)
        for name in ("duplicates", "late"):
            assert abs(counts[name] - 0.05 * n) < SIGMAS * (n * 0.05 * 0.95) ** 0.5 + 1


def test_days_and_customers_of_the_truth_add_up_to_the_orders() -> None:
    lived = live(**SMALL, noise=CLEAN)
    days, customers = lived.truth["days"], lived.truth["customers"]
    placed = lived.of("orders", "placed")
    assert days["orders"] == lived.by_day(placed)
    revenue: defaultdict[int, float] = defaultdict(float)
    by_customer: Counter[str] = Counter()
    for event in placed:
        revenue[lived.day(event)] += event["amount"]
        by_customer[event["customer_id"]] += 1
    assert days["revenue"] == pytest.approx([revenue[day] for day in range(40)], abs=0.005)
    known = dict(zip(customers["customer_id"], customers["orders"], strict=True))
    assert {who: count for who, count in known.items() if count} == by_customer
    assert sum(customers["revenue"]) == pytest.approx(sum(days["revenue"]), abs=0.01)
    assert days["visits"] == lived.by_day(lived.of("interactions", "visit"))
    contacts = lived.of("interactions", "contact", "complaint")
    assert days["contacts"] == lived.by_day(contacts)
    first = Counter(day for day in customers["first_order_day"] if day >= 0)
    assert days["new_customers"] == [first[day] for day in range(40)]


def test_lines_sum_to_the_order_and_what_comes_back_was_bought() -> None:
    lived = live(**(SMALL | {"customers": 600}), noise=CLEAN)
    placed = {event["order_id"]: event for event in lived.of("orders", "placed")}
    for event in placed.values():
        lines = sum(round(line["unit_price"] * 100) for line in event["items"])
        assert lines == round(event["amount"] * 100)
        assert 0 < event["cost"] < event["amount"] or event["amount"] < 0.05
    back = lived.of("orders", "returned", "cancelled")
    assert {event["kind"] for event in back} == {"returned", "cancelled"}
    for event in back:
        order = placed[event["order_id"]]
        assert order["customer_id"] == event["customer_id"]
        assert order["occurred_at"] < event["occurred_at"]
        assert event["amount"] <= order["amount"]
        assert event["cost"] <= order["cost"]


def test_who_has_left_does_not_visit_any_more() -> None:
    lived = live(**(SMALL | {"days": 120}))
    customers = lived.truth["customers"]
    left = {
        who: datetime.fromisoformat(at).astimezone(UTC).date()
        for who, at in zip(customers["customer_id"], customers["left_at"], strict=True)
        if at is not None
    }
    gone = staying = 0
    for event in lived.of("interactions", "visit", "referral"):
        day = datetime.fromtimestamp(event["occurred_at"], UTC).date()
        who = event["customer_id"]
        gone += who in left and day > left[who]
        staying += who not in left or day <= left[who]
    assert (gone, staying > 100) == (0, True)
    assert len(left) > 20


def test_the_truth_of_a_shop_that_was_stopped_says_so() -> None:
    shop = Shop(Scenario.model_validate(SMALL))
    for number, _ in enumerate(shop.events()):
        if number == 200:
            break
    truth = shop.truth()
    days = len(truth["days"]["date"])
    assert not truth["complete"]
    assert 0 < days < 40
    assert all(len(column) == days for column in truth["days"].values())
    assert max(truth["customers"]["first_order_day"]) < days


# Laws


@pytest.fixture(scope="module")
def textbook() -> Lived:
    """Orders alone, on days that are all alike, seen from the first one on."""
    return live(
        name="s", seed=11, customers=3_000, days=364, warm_up_days=0,
        season=FLAT, interactions=QUIET, noise=CLEAN, feedback={"share": 0},
        orders={"cancelled": 0, "returned": 0},
    )  # fmt: skip


def likelihood_ratio(
    fitted: Fit, log_likelihood: Any, at: np.ndarray[Any, Any], of: Summary
) -> float:
    return 2 * (fitted.log_likelihood - float(log_likelihood(at, of).sum()))


def test_a_batch_fit_finds_the_parameters_of_the_purchases(textbook: Lived) -> None:
    """By the likelihood ratio; the same test refuses rates a fifth higher."""
    model = textbook.scenario.purchases
    truth = np.array([model.r, model.alpha, model.a, model.b])
    summary = histories(textbook)
    fitted = fit(mbg_log_likelihood, summary, start=truth)
    bound = chi2.ppf(0.999, 4)
    assert likelihood_ratio(fitted, mbg_log_likelihood, truth, summary) < bound
    wrong = truth * [1, 1 / 1.2, 1, 1]
    assert likelihood_ratio(fitted, mbg_log_likelihood, wrong, summary) > 2 * bound


def test_a_batch_fit_finds_the_parameters_of_the_spend(textbook: Lived) -> None:
    money = textbook.scenario.spend
    truth = np.array([money.p, money.q, money.gamma])
    summary = histories(textbook)
    fitted = fit(gamma_gamma_log_likelihood, summary, start=truth)
    bound = chi2.ppf(0.999, 3)
    assert likelihood_ratio(fitted, gamma_gamma_log_likelihood, truth, summary) < bound
    wrong = truth * [1, 1, 1.2]
    assert likelihood_ratio(fitted, gamma_gamma_log_likelihood, wrong, summary) > 2 * bound


def test_what_was_expected_is_what_came_on_average() -> None:
    """Orders given who is there vary as a Poisson count at most."""
    lived = live(
        name="s", seed=5, customers=4_000, days=200, warm_up_days=100, noise=CLEAN,
        shifts=["level:-40%@80,channel=web", "level:+30%@120,metric=visits", "slope:+50%@20+90"],
        campaigns=["spring:+40%@60+30"],
    )  # fmt: skip
    days = lived.truth["days"]
    for name in ("orders", "new_customers", "visits"):
        for part in (slice(0, 80), slice(80, 200)):
            expected = sum(days[f"expected_{name}"][part])
            assert abs(sum(days[name][part]) - expected) < SIGMAS * expected**0.5, name
    expected = sum(days["expected_revenue"])
    assert sum(days["revenue"]) == pytest.approx(expected, rel=0.04)


def test_who_would_order_ten_times_a_day_leaves_before_that() -> None:
    """Half of them after each order: the mean of a day is (1 - exp(-5)) / .5 and not 10."""
    lived = live(
        name="s", seed=1, customers=3_000, days=20, warm_up_days=0, noise=CLEAN, season=FLAT,
        interactions=QUIET, purchases={"r": 7e4, "alpha": 1e3, "a": 1e3, "b": 1e3},
    )  # fmt: skip
    days = lived.truth["days"]
    repeated, expected = (
        sum(days[f"{kind}orders"]) - sum(days[f"{kind}new_customers"]) for kind in ("", "expected_")
    )
    assert expected == pytest.approx(2 * (1 - np.exp(-5)) * sum(days["customers_there"]), rel=0.01)
    assert abs(repeated - expected) < SIGMAS * expected**0.5


def test_the_orders_of_the_time_after_are_those_the_truth_expects() -> None:
    """Held against the same shop, lived on."""
    fields: dict[str, Any] = {
        "name": "s", "seed": 12, "warm_up_days": 0, "season": FLAT, "interactions": QUIET,
        "noise": CLEAN,
    }  # fmt: skip
    until = live(**fields, customers=4_000, days=100).truth["customers"]
    on = live(**fields, customers=7_600, days=190)  # as many a day
    known = set(until["customer_id"])
    came = sum(on.day(event) >= 100 and event["customer_id"] in known
               for event in on.of("orders", "placed"))  # fmt: skip
    expected = sum(until["orders_in_next_90d"])
    assert abs(came - expected) < SIGMAS * expected**0.5


def test_orders_follow_the_weekday_and_the_hour() -> None:
    week = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 0.5)
    hours = (0,) * 8 + (1,) * 8 + (3,) * 8
    lived = live(
        name="s", seed=2, customers=3_000, days=140, warm_up_days=0, noise=CLEAN,
        season={**FLAT, "weekdays": week, "hours": hours}, interactions=QUIET,
    )  # fmt: skip
    at = np.array([event["occurred_at"] for event in lived.of("orders", "placed")])
    weekday = ((at // DAY).astype(int) + 3) % 7  # 1970 began on a Thursday
    share = np.bincount(weekday, minlength=7) / len(at)
    want = np.array(week) / sum(week)
    assert (abs(share - want) < SIGMAS * np.sqrt(want / len(at)) + 0.005).all()
    hour = (at % DAY // 3_600).astype(int)
    assert not (hour < 8).any()
    assert (hour >= 16).mean() == pytest.approx(0.75, abs=SIGMAS * (0.19 / len(at)) ** 0.5)


@pytest.fixture(scope="module")
def pair() -> tuple[Lived, Lived]:
    """The same shop without and with shifts."""
    fields: dict[str, Any] = {
        "name": "s", "seed": 8, "customers": 6_000, "days": 120, "warm_up_days": 200,
        "season": FLAT, "interactions": QUIET | {"contacts": 0.3}, "noise": CLEAN,
    }  # fmt: skip
    shifts = ["level:-20%@60,source=search", "level:-50%@60,channel=app",
              "level:+100%@60,metric=contacts", "level:+25%@90,metric=amount"]  # fmt: skip
    return live(**fields), live(**fields, shifts=shifts)


def after(lived: Lived, first: int, *kinds: str, **fields: str) -> list[dict[str, Any]]:
    return [
        event
        for role in ("orders", "interactions")
        for event in lived.of(role, *kinds)
        if lived.day(event) >= first and fields.items() <= event.items()
    ]


def assert_ratio(one: int, other: int, ratio: float) -> None:
    """Two Poisson counts in a ratio, but for sampling error and 3 % of what follows from it."""
    error = ratio * (1 / one + 1 / other) ** 0.5
    assert abs(one / other - ratio) < SIGMAS * error + 0.03 * ratio, one / other


def test_a_planted_fall_is_in_the_orders_of_its_scope_alone(pair: tuple[Lived, Lived]) -> None:
    plain, moved = pair
    for source, channel, ratio in (
        ("search", "web", 0.8),
        ("search", "app", 0.4),
        ("social", "app", 0.5),
        ("social", "web", 1.0),
    ):
        counts = [
            len(after(lived, 60, "placed", source_code=source, channel=channel))
            for lived in (moved, plain)
        ]
        assert counts[1] > 150
        assert_ratio(counts[0], counts[1], ratio)


def test_the_effect_of_each_shift_on_the_whole_is_in_the_truth(pair: tuple[Lived, Lived]) -> None:
    """The whole moves by the product of both effects where they are independent of each other."""
    plain, moved = pair
    search, app, _, amount = moved.truth["shifts"]
    assert search["start"] == "2024-03-01T00:00:00.000Z"
    # Four in ten customers are of that source, and a fifth of their orders goes away.
    assert search["effect"]["new_customers"] == pytest.approx(-0.08, abs=0.001)
    assert app["effect"]["new_customers"] == pytest.approx(-0.1, abs=0.002)
    assert amount["effect"]["orders"] == 0
    assert amount["effect"]["revenue"] == pytest.approx(0.25, abs=1e-6)
    days = moved.truth["days"]
    whole = [sum(days[name][60:]) for name in
             ("expected_orders", "expected_orders_without_shifts")]  # fmt: skip
    product = (1 + search["effect"]["orders"]) * (1 + app["effect"]["orders"])
    assert whole[0] / whole[1] == pytest.approx(product, abs=0.005)
    counts = [len(after(lived, 60, "placed")) for lived in (moved, plain)]
    assert_ratio(counts[0], counts[1], whole[0] / whole[1])


def test_contacts_move_by_the_order(pair: tuple[Lived, Lived]) -> None:
    rates = []
    for lived in pair:
        contacts = len(after(lived, 66, "contact", "complaint"))
        rates.append((contacts, len(after(lived, 66, "placed"))))
    (before, orders), (more, fewer) = rates
    assert_ratio(round(more * orders / fewer), before, 2.0)


def test_three_in_ten_orders_are_followed_by_a_contact(pair: tuple[Lived, Lived]) -> None:
    """Whatever the moods; orders of the five days before would make some more, of the last less."""
    plain, _ = pair
    contacts = len(after(plain, 5, "contact", "complaint"))
    want = 0.3 * len(after(plain, 5, "placed"))
    assert abs(contacts - want) < SIGMAS * want**0.5


def test_amounts_move_from_their_day_on(pair: tuple[Lived, Lived]) -> None:
    """Of the logarithms, which the same draw of the same customer differs in by the factor."""
    plain, moved = pair
    for first, last, ratio in ((60, 90, 1.0), (90, 120, 1.25)):
        logs = [
            np.log([
                event["amount"] for event in after(lived, first, "placed")
                if lived.day(event) < last and event["amount"] > 1
            ])
            for lived in (moved, plain)
        ]  # fmt: skip
        error = sum(part.var() / len(part) for part in logs) ** 0.5
        assert abs(logs[0].mean() - logs[1].mean() - np.log(ratio)) < SIGMAS * error


def test_the_treated_of_a_campaign_buy_more_by_its_lift() -> None:
    lived = live(
        name="s", seed=4, customers=8_000, days=60, warm_up_days=300, interactions=QUIET,
        season=FLAT, noise=CLEAN, campaigns=["spring:+50%@20+30"],
    )  # fmt: skip
    exposures = lived.of("interactions", "exposure")
    arm = {event["customer_id"]: event["arm"] for event in exposures}
    assert len(arm) == len(exposures) > 3_000
    assert {event["campaign_id"] for event in exposures} == {"spring"}
    assert {lived.day(event) for event in exposures} == {20}
    bought = Counter(
        arm[event["customer_id"]]
        for event in lived.of("orders", "placed")
        if 20 < lived.day(event) <= 50 and event["customer_id"] in arm
    )
    size = Counter(arm.values())
    assert size["treatment"] == pytest.approx(size["control"], rel=0.1)
    control = round(bought["control"] * size["treatment"] / size["control"])
    assert_ratio(bought["treatment"], control, 1.5)
    (campaign,) = lived.truth["campaigns"]
    for name in ("treatment", "control"):
        assert campaign[name]["orders"] == bought[name]
        assert campaign[name]["customers"] == size[name]
        expected = campaign[name]["expected_orders"]
        assert abs(bought[name] - expected) < SIGMAS * expected**0.5
    assert set(campaign["treatment_ids"]) == {who for who in arm if arm[who] == "treatment"}


def test_a_regression_finds_the_roles_of_the_attributes() -> None:
    """Overall satisfaction on a dummy for low and one for high of each attribute (Brandt 1987)."""
    lived = live(
        name="s", seed=6, customers=8_000, days=60, warm_up_days=100, interactions=QUIET,
        noise=CLEAN, feedback={"share": 1.0},
    )  # fmt: skip
    ours = [event for event in lived.of("feedback", "csat", "rating") if event["subject"] == "us"]
    names = list(lived.truth["attributes"])
    levels = np.array([[event["attributes"][name] for name in names] for event in ours])
    rows = np.column_stack([np.ones(len(ours)), levels <= 2, levels >= 4])
    score = np.array([event["score"] for event in ours])
    found, _, _, _ = np.linalg.lstsq(rows, score, rcond=None)
    noise = (score - rows @ found).var()
    error = np.sqrt(noise * np.diag(np.linalg.inv(rows.T @ rows)))
    attributes = lived.truth["attributes"].values()
    want = [one["penalty"] for one in attributes] + [one["reward"] for one in attributes]
    # Whole answers between 1 and 5 take a little of the largest effects.
    assert (abs(found[1:] - want) < SIGMAS * error[1:] + 0.06).all(), found
    assert error.max() < 0.06
    others = {event["subject"] for event in lived.of("feedback")}
    assert others == {"us", "northwind", "bluebird"}


def test_a_fall_of_satisfaction_is_in_the_answers_of_its_scope() -> None:
    lived = live(
        name="s", seed=7, customers=8_000, days=60, warm_up_days=100, interactions=QUIET,
        noise=CLEAN, feedback={"share": 1.0},
        shifts=["level:-100%@20,metric=satisfaction,source=search"],
    )  # fmt: skip
    people = lived.truth["customers"]
    source = dict(zip(people["customer_id"], people["source"], strict=True))
    scores: defaultdict[tuple[bool, bool], list[float]] = defaultdict(list)
    for event in lived.of("feedback", "csat", "rating"):
        day = lived.day(event)
        # Answers come up to eight days after the order that they are about.
        if event["subject"] == "us" and not 20 <= day < 29:
            scores[source[event["customer_id"]] == "search", day >= 29].append(event["score"])
    (shift,) = lived.truth["shifts"]
    assert shift["effect"]["satisfaction"] < -0.4
    for searched, effect in ((True, shift["effect"]["satisfaction"]), (False, 0.0)):
        before, after = scores[searched, False], scores[searched, True]
        error = (np.var(before) / len(before) + np.var(after) / len(after)) ** 0.5
        assert error < 0.06
        # Nobody can say less than 1.
        assert abs(np.mean(after) - np.mean(before) - effect) < SIGMAS * error + 0.03


def test_who_is_content_stays_longer_where_that_is_planted() -> None:
    def contrast(strength: float) -> float:
        lived = live(
            name="s", seed=9, customers=3_000, days=200, warm_up_days=0, season=FLAT,
            interactions=QUIET, feedback={"share": 0, "drives_dropout": strength},
        )  # fmt: skip
        customers = lived.truth["customers"]
        mood = np.array(customers["mood"])
        left = np.array([at is not None for at in customers["left_at"]])
        return float(left[mood < 0].mean() - left[mood > 0].mean())

    # A difference of two shares of 1,500 each has a standard error of .018.
    assert abs(contrast(0.0)) < SIGMAS * 0.018
    assert contrast(1.0) > 0.15
