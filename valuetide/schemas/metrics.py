"""Names of the metrics of which there are series."""

from typing import Literal

MetricName = Literal[
    "revenue",
    "orders",
    "mean_order_value",
    "new_customers",
    "refunds",
    "satisfaction",
    "contact_rate",
    "equity_growth",
]

DEFAULT_METRICS: tuple[MetricName, ...] = (
    "revenue",
    "orders",
    "mean_order_value",
    "new_customers",
    "satisfaction",
    "contact_rate",
)
