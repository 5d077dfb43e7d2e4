"""Frequency and monetary value are those of the lifetimes package."""

import numpy as np
import pandas as pd
from lifetimes.utils import summary_data_from_transaction_data

from tests.support.reference import DAY
from valuetide.schemas.vocabulary import RfmBands
from valuetide.scoring.current_value import current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.fold import OrderBatch, fold


def test_summary_of_generated_transactions() -> None:
    rng = np.random.default_rng(20_200_101)
    people, count = 300, 4_000
    # A few buy very often, many once or twice, and orders crowd on some days.
    who = (people * rng.random(count) ** 3).astype(np.int64)
    at = 1_600_000_000_000 + np.sort(rng.integers(0, 200 * DAY, count))
    amount = rng.integers(0, 500_00, count)
    summary = summary_data_from_transaction_data(
        pd.DataFrame({"who": who, "at": pd.to_datetime(at, unit="ms"), "amount": amount / 100}),
        "who",
        "at",
        monetary_value_col="amount",
        freq="D",
    )
    assert summary["frequency"].max() > 40

    customers = Customers()
    rows = customers.add([str(n) for n in range(people)], [None] * people)
    ids = np.arange(count, dtype=np.uint64)
    for part in np.array_split(np.arange(count), 13):
        kinds = np.zeros(part.size, np.uint8)
        fold(
            customers,
            OrderBatch(
                who[part], ids[part], kinds, ids[part], at[part], amount[part], 0 * amount[part]
            ),
        )
    found = current_value(customers, rows, int(at[-1]), minor_digits=2, bands=RfmBands())
    bought = summary.index.to_numpy()
    assert (found.orders > 0).sum() == bought.size
    assert found.frequency[bought].tolist() == summary["frequency"].astype(int).tolist()
    # lifetimes says 0 where there is no repeat purchase; we say that there is no mean.
    expected = np.where(summary["frequency"] > 0, summary["monetary_value"], np.nan)
    np.testing.assert_allclose(found.monetary_value[bought], expected, rtol=1e-9)
