"""``valuetide model``: what was learned, how good it was, and what all customers are worth."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from valuetide.streams.cli.common import json_option, print_json, run

if TYPE_CHECKING:
    from valuetide.scoring.lifetime.evidence_learner import Told
    from valuetide.scoring.lifetime.grade import Grade, Quality, Report
    from valuetide.streams.reader import Learned, Outlook

SIGNIFICANT = 6
HOW_TO_READ = (
    "how good predictions were, of those whose horizon is over; recent ones weigh more",
    "  graded: purchases alone, by what each partition learned; no evidence, no correction",
    "  decile: a tenth of the customers each, least predicted revenue first; means of a customer",
    "  bias: predicted less realised, as a share of the realised; + is too much, - too little",
    "  mean absolute error: of a customer, whichever way",
    "  calibration slope: 1 is right; below 1 customers differ less than predicted, above 1 more",
    "  inside the interval: 80 % is right, of likely buyers; the others are inside more often",
)


@click.command()
@click.option(
    "--equity/--no-equity",
    default=True,
    help="Sum clv and expected revenue of all customers, which walks over all of them.",
)
@json_option
def model(equity: bool, as_json: bool) -> None:
    """Show what was learned from the orders, how good predictions were, and the customer equity.

    Purchases are described by MBG/NBD (r, alpha in weeks, a, b), what is spent by Gamma-Gamma
    (p, q, gamma in the base currency). Customer equity is the sum of all clv; the forecast is the
    revenue that the customers there are will bring. Evidence is what interactions and feedback tell
    of whether a customer will order again, with the setting evidence.

    Predictions are compared with what came when their horizon is over. Graded are orders and
    revenue predicted from purchases alone: without evidence and without the correction.

    \b
    valuetide model
    valuetide model --json | jq .equity
    """
    from valuetide.streams.reader import Reader
    from valuetide.streams.settings import load_settings

    settings = load_settings()

    async def read() -> "tuple[Learned, Outlook | None]":
        async with Reader(settings) as reader:
            return await reader.learned(), await reader.outlook() if equity else None

    learned, outlook = run(read())
    sums, revenue = (outlook.equity, outlook.revenue) if outlook else (None, None)
    if as_json:
        print_json(model_as_json(learned, sums, revenue))
        return
    for line in model_lines(learned, sums, revenue):
        click.echo(line)


def model_as_json(
    learned: "Learned",
    equity: dict[str, float] | None,
    revenue: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Give parameters, numbers, grades and equity, ready for JSON."""
    knowledge = learned.knowledge
    return {
        **asdict(learned.parameters),
        "currency": learned.currency,
        "customers": learned.customers,
        "orders": learned.orders,
        "shards": {str(at): asdict(found) for at, found in learned.shards.items()},
        "ratio_correction": {
            "in_force": learned.corrected and knowledge.factor != 1.0,
            "factor": knowledge.learned_factor,
        },
        "evidence": None if knowledge.told is None else _evidence_as_json(knowledge.told),
        "grades": {f"{days}d": _grade_as_json(one) for days, one in knowledge.grades.items()},
        "equity": _rounded(equity),
        "forecast": _rounded(revenue),
    }


def model_lines(
    learned: "Learned",
    equity: dict[str, float] | None,
    revenue: dict[str, float] | None = None,
) -> list[str]:
    """Give what was learned as lines to read."""
    found, knowledge, currency = learned.parameters, learned.knowledge, learned.currency
    lines = [
        f"learned from {learned.orders:,} orders of {learned.customers:,} customers "
        f"in {len(learned.shards)} partitions",
        f"purchases  {_named(asdict(found.purchases))}",
        f"spend      {_named(asdict(found.spend))}",
        f"correction {_correction(knowledge.factor, knowledge.learned_factor, learned.corrected)}",
    ]
    for title, sums in (("equity", equity), ("forecast", revenue)):
        if sums is not None:
            found_sums = ", ".join(f"{v:,.2f} {currency} ({name})" for name, v in sums.items())
            lines.append(f"{title:10} {found_sums}")
    lines += _evidence_lines(knowledge.told)
    if any(grade.cohorts for grade in knowledge.grades.values()):
        lines += ["", *HOW_TO_READ]
    for days, grade in knowledge.grades.items():
        lines += ["", *_grade_lines(days, grade, currency)]
    return lines


def _rounded(sums: dict[str, float] | None) -> dict[str, float] | None:
    return None if sums is None else {name: round(value, 2) for name, value in sums.items()}


def _correction(factor: float, learned: float, corrected: bool) -> str:
    if not corrected:
        return f"off by the setting ratio_correction; the factor would be {learned:.3f}"
    if factor != 1.0:
        return f"on, it has proven to help: what is expected is multiplied by {factor:.3f}"
    return f"off, it has not proven to help; the factor would be {learned:.3f}"


def _evidence_lines(told: "Told | None") -> list[str]:
    from valuetide.scoring.signals import KINDS

    if told is None:
        return ["evidence   not learned, see the setting evidence"]
    lines = [
        f"evidence   {'in force' if told.in_force else 'not in force'}: log probability of what "
        f"came {told.gain:+.1f} by signals (chance: +- {told.gain_sd:.1f}), "
        f"{told.buyers:,.0f} purchases among it",
        f"{'signal':>12}{'days':>9}{'a week, there':>15}"
        f"{'times once gone, first 4 weeks':>32}{'later':>8}  counts",
    ]
    for nth, kind in enumerate(KINDS):
        early, late = (math.exp(one) for one in told.estimate.log_ratio[nth].tolist())
        counts = "yes" if told.beyond_doubt[nth] else "not beyond doubt"
        lines.append(
            f"{kind:>12}{told.days[nth]:>9,.0f}{_weekly(told, nth):>15.3f}"
            f"{early:>32.2f}{late:>8.2f}  {counts}"
        )
    lines.append(
        "  days: with a signal, between orders; times below 1: a sign of life, above 1: of"
    )
    lines.append("  having left; a silent customer who used to be heard of often tells the most")
    return lines


def _evidence_as_json(told: "Told") -> dict[str, Any]:
    from valuetide.scoring.signals import KINDS

    return {
        "in_force": told.in_force,
        "gain": told.gain,
        "gain_sd": told.gain_sd,
        "purchases": told.buyers,
        "signals": {
            kind: {
                "days": float(told.days[nth]),
                "weekly_rate": _weekly(told, nth),
                "ratio_first_weeks": math.exp(told.estimate.log_ratio[nth, 0]),
                "ratio_later": math.exp(told.estimate.log_ratio[nth, 1]),
                "level": math.exp(told.estimate.log_level[nth]),
                "beyond_doubt": bool(told.beyond_doubt[nth]),
            }
            for nth, kind in enumerate(KINDS)
        },
    }


def _weekly(told: "Told", kind: int) -> float:
    """Give the mean rate of signals of customers who are there."""
    return float(told.estimate.shape[kind] / told.estimate.rate[kind])


def _grade_lines(days: int, grade: "Grade", currency: str) -> list[str]:
    from valuetide.scoring.lifetime.grade import report

    outcomes = report(grade.total).outcomes
    if not grade.cohorts:
        return [f"{days} days ahead: no outcome is known yet"]
    found = report(grade.recent)
    quantities = (("orders", found.orders), (f"revenue, {currency}", found.revenue))
    lines = [
        f"{days} days ahead, {outcomes:,.0f} outcomes known",
        f"{'decile':>8}{'orders predicted':>18}{'realised':>10}"
        f"{'revenue predicted':>19}{'realised':>10}",
    ]
    columns = (
        found.orders.predicted,
        found.orders.realised,
        found.revenue.predicted,
        found.revenue.realised,
    )
    for decile, row in enumerate(zip(*columns, strict=True), start=1):
        a, b, c, d = (float(number) for number in row)
        lines.append(f"{decile:>8}{a:>18,.3f}{b:>10,.3f}{c:>19,.2f}{d:>10,.2f}")
    for name, quality in quantities:
        lines.append(
            f"  {name}: bias {quality.bias:+.1%}, mean absolute error {quality.mae:.4g}, "
            f"calibration slope {quality.slope:.3f}"
        )
    lines.append(
        f"  inside the 80 % interval: {found.coverage:.1%}, "
        f"of likely buyers {found.likely_coverage:.1%}"
    )
    return lines


def _grade_as_json(grade: "Grade") -> dict[str, Any]:
    from valuetide.scoring.lifetime.grade import report

    return {
        "cohorts": grade.cohorts,
        "recent": _report_as_json(report(grade.recent)),
        "all": _report_as_json(report(grade.total)),
    }


def _report_as_json(found: "Report") -> dict[str, Any]:
    return {
        "outcomes": found.outcomes,
        "coverage": _number(found.coverage),
        "likely_coverage": _number(found.likely_coverage),
        "orders": _quality_as_json(found.orders),
        "revenue": _quality_as_json(found.revenue),
    }


def _quality_as_json(found: "Quality") -> dict[str, Any]:
    return {
        "bias": _number(found.bias),
        "mae": _number(found.mae),
        "slope": _number(found.slope),
        "predicted": [_number(value) for value in found.predicted.tolist()],
        "realised": [_number(value) for value in found.realised.tolist()],
    }


def _number(value: float) -> float | None:
    """Give a number, or ``None`` where there is none: JSON has no NaN."""
    return None if math.isnan(value) else value


def _named(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.{SIGNIFICANT}g}" for name, value in values.items())
