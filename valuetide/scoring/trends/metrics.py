"""The metrics that are watched: what each is made of, how it moves, and what it is worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from valuetide.schemas.metrics import MetricName
from valuetide.scoring.series import SATISFIED, Column, Role
from valuetide.scoring.trends.expectation import Model

Worth = Literal["money", "order", "orders", "equity", "none"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes
    ----------
    label
        For people.
    model
        How it moves.
    roles
        Inputs that it is made of: while the producer of one has stopped, it is not judged.
    worth
        What one unit is worth: it is money; the mean order value; the orders there are, each; the
        equity; nothing that could be said in money.
    above, per
        Sums: of the metric, or of a ratio what is above and below the line.
    money
        Whether the unit is money, in minor units above the line.
    above_unit
        What of the sum above the line is one, beside money.
    dimensions
        By which it can be cut.
    kin
        Metrics that move with it when one thing happens: fewer orders are less revenue.
    """

    label: str
    model: Model
    roles: tuple[Role, ...]
    worth: Worth
    above: Column | None = None
    per: Column | None = None
    money: bool = False
    above_unit: float = 1.0
    dimensions: tuple[str, ...] = ("channel", "value_tier", "source_code")
    kin: tuple[MetricName, ...] = ()

    @property
    def of_equity(self) -> bool:
        """Whether it is made of the sum of all customers' clv."""
        return self.above is None


# The noise to start from is rather too low than too high: in the points of learning it can grow
# tenfold, but fall to a quarter only. Shares are those of a shop with some hundred orders a day.
_COUNT: Final = Model("sqrt", noise=1.0)
_SHARE: Final = Model("identity", noise=0.02)
LEAST_PER: Final = 5
"""A ratio of fewer orders or answers than this says nothing: the point is missing."""

METRICS: Final[Mapping[MetricName, Metric]] = {
    "revenue": Metric("revenue", Model("log"), ("orders",), "money", Column.REVENUE, money=True,
                      kin=("orders", "mean_order_value", "new_customers")),
    "orders": Metric("number of orders", _COUNT, ("orders",), "order",
                     Column.ORDERS, kin=("revenue", "new_customers")),
    "mean_order_value": Metric("mean order value", Model("log", noise=0.05), ("orders",), "orders",
                               Column.REVENUE, Column.ORDERS, money=True, kin=("revenue",)),
    "new_customers": Metric("number of new customers", _COUNT, ("orders",),
                            "order", Column.NEW_CUSTOMERS, dimensions=("channel", "source_code"),
                            kin=("orders", "revenue")),
    "refunds": Metric("refunds", Model("log"), ("orders",), "money", Column.REFUNDS, money=True),
    # Feedback has no channel, and contacts come by another one than the orders they are about.
    "satisfaction": Metric("satisfaction", _SHARE, ("feedback",), "none", Column.SATISFACTION,
                           Column.ANSWERS, above_unit=SATISFIED, dimensions=("value_tier",)),
    "contact_rate": Metric("contacts per order", _SHARE, ("orders", "interactions"), "none",
                           Column.CONTACTS, Column.ORDERS, dimensions=("value_tier",)),
    # A sum of expectations wanders, and a wandering series has no level to return to; by how much
    # it grows has one. Growth that turns negative is value at risk.
    "equity_growth": Metric("growth of the expected value of all customers",
                            Model("identity", noise=0.002), ("orders",), "equity", dimensions=()),
}  # fmt: skip
