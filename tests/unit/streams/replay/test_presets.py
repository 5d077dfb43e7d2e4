import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.shared_data import lifetimes_data, shared_data
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.decode import Decoder
from valuetide.streams.replay.catalog import DATA_SETS
from valuetide.streams.replay.errors import ReplayError, ReplayUsageError
from valuetide.streams.replay.event import MAX_EVENT_BYTES, SourceEvent
from valuetide.streams.replay.presets import READERS, cdnow, cdnow_sample, online_retail
from valuetide.streams.replay.presets.online_retail import (
    COLUMNS,
    NO_CUSTOMER,
    OTHER_INVOICE,
    WRONG_SIGN,
    ZERO_SUM,
)
from valuetide.streams.replay.tally import Tally

RETAIL = "online_retail_uci_2010_2011.parquet"


def decoded(events: Iterable[SourceEvent]) -> pd.DataFrame:
    return pd.DataFrame([json.loads(event.value) for event in events])


def accepted(events: list[SourceEvent], currency: str) -> int:
    """Count what a worker's own decoder takes."""
    decoder = Decoder("orders", Vocabulary(base_currency=currency), MAX_EVENT_BYTES)
    return len(decoder.decode([event.value for event in events], now_ms=2**41).customer)


def test_every_known_data_set_has_a_reader() -> None:
    assert DATA_SETS.keys() == READERS.keys()


def test_cdnow_is_complete_in_order_and_accepted_by_a_worker() -> None:
    path = lifetimes_data("CDNOW_master.txt")
    file = pd.read_csv(path, sep=r"\s+", skiprows=1, names=["who", "day", "cds", "usd"], dtype=str)
    events = list(cdnow(path, tally := Tally()))
    sent = decoded(events)
    assert (len(sent), sent.customer_id.nunique()) == (69_659, 23_570) == (len(file), 23_570)
    assert (tally.rows, tally.skipped) == (69_659, {})
    assert accepted(events, "USD") == len(events)
    assert sent.event_id.is_unique
    assert (sent.event_id == sent.order_id).all()
    assert sent.occurred_at.is_monotonic_increasing
    # Row by row what the file says, found by the number in the id.
    again = file.iloc[sent.event_id.str.removeprefix("cdnow-").astype(int) - 1]
    assert again.who.tolist() == sent.customer_id.tolist()
    days = pd.to_datetime(again.day, format="%Y%m%d").astype("datetime64[s]").astype("int64")
    assert days.tolist() == sent.occurred_at.tolist()
    cents = again.usd.str.replace(".", "").astype(int)
    assert (sent.amount * 100).round().astype(int).tolist() == cents.tolist()
    assert round(sent.amount.sum(), 2) == cents.sum() / 100 == 2_500_315.63


def test_cdnow_keeps_the_files_order_within_a_day() -> None:
    sent = decoded(cdnow(lifetimes_data("CDNOW_master.txt")))
    number = sent.event_id.str.removeprefix("cdnow-").astype(int)
    assert all(day.is_monotonic_increasing for _, day in number.groupby(sent.occurred_at))


def test_the_cdnow_sample_has_the_master_files_customers() -> None:
    path = lifetimes_data("CDNOW_sample.txt")
    events = list(cdnow_sample(path, tally := Tally()))
    sent, master = decoded(events), decoded(cdnow(lifetimes_data("CDNOW_master.txt")))
    assert (len(sent), sent.customer_id.nunique(), tally.rows) == (6_919, 2_357, 6_919)
    same = ["customer_id", "occurred_at", "amount"]
    inside = master[master.customer_id.isin(sent.customer_id)]
    order = {"by": same, "ignore_index": True}
    pd.testing.assert_frame_equal(
        sent[same].sort_values(**order),
        inside[same].sort_values(**order),
    )


@pytest.mark.shared_data
def test_the_shared_copy_of_cdnow_gives_the_same_events() -> None:
    assert list(cdnow(shared_data("CDNOW_master.txt.gz"))) == list(
        cdnow(lifetimes_data("CDNOW_master.txt"))
    )


def test_bad_lines_of_cdnow_are_counted_and_do_not_change_the_ids_of_others(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.txt.gz"
    lines = ["id date n usd", "1 19970101 1 2.005", "2 1997 1 2.00", "3 19970101", "4 19970101 1 x"]
    file.write_bytes(gzip.compress("\n".join([*lines, "5 19970102 1 0.00"]).encode()))
    sent = decoded(cdnow(file, tally := Tally(), "EUR"))
    assert sent.event_id.tolist() == ["cdnow-1", "cdnow-5"]
    assert sent.amount.tolist() == [2.01, 0.0]
    assert set(sent.currency) == {"EUR"}
    assert tally.rows == 5
    assert {reason: skip.first_line for reason, skip in tally.skipped.items()} == {
        "occurred_at: is not a time (see --time-format)": 3,
        "amount: is not a number": 4,
    }
    with pytest.raises(ReplayError, match="line 3: occurred_at"):
        list(cdnow(file, Tally(strict=True)))


@pytest.mark.shared_data
def test_online_retail_agrees_with_an_independent_sum_by_invoice() -> None:
    path = shared_data(RETAIL)
    lines = pd.read_parquet(path)
    known = lines[lines.CustomerID.notna()].copy()
    # Prices have at most three decimals, so thousandths are whole numbers.
    known["mills"] = (known.UnitPrice * 1000).round().astype("int64") * known.Quantity
    groups = known.groupby("InvoiceNo", sort=False)
    want = groups.agg(
        mills=("mills", "sum"), at=("InvoiceDate", "first"), who=("CustomerID", "first")
    )
    want["pence"] = (want.mills.abs() + 5) // 10
    want = want[want.pence > 0]
    events = list(online_retail(path, tally := Tally()))
    sent = decoded(events).set_index("order_id")
    assert accepted(events, "GBP") == len(events)
    assert sent.index.is_unique
    assert sent.occurred_at.is_monotonic_increasing
    assert set(sent.index) == set(want.index)
    want = want.loc[sent.index]
    assert ((sent.amount * 100).round().astype("int64") == want.pence).all()
    assert (sent.occurred_at == want["at"].astype("datetime64[s]").astype("int64")).all()
    assert (sent.customer_id == want.who.astype(int).astype(str)).all()
    assert ((sent.kind == "returned") == want.index.str.startswith("C")).all()
    assert tally.rows == 541_909
    assert {r: s.count for r, s in tally.skipped.items()} == {NO_CUSTOMER: 135_080, ZERO_SUM: 4}
    assert want.mills.sum() == known.mills.sum() == 8_300_065_814
    items = sent["items"].explode()
    assert len(items) == len(known) - (~known.InvoiceNo.isin(want.index)).sum()


def retail_file(path: Path, lines: list[tuple[Any, ...]]) -> Path:
    columns = {name: [line[i] for line in lines] for i, name in enumerate(COLUMNS)}
    pq.write_table(pa.table(columns), path)
    return path


def test_online_retail_groups_nets_and_leaves_out(tmp_path: Path) -> None:
    day, later = pd.Timestamp("2011-01-05 12:00"), pd.Timestamp("2011-01-05 12:01")
    file = retail_file(
        tmp_path / "a.parquet",
        [
            ("1", "a", 3, day, 0.1, 7.0),
            ("2", "a", 1, day, 5.0, None),  # no customer
            ("C3", "a", -2, day, 1.005, 7.0),  # returned
            ("1", "b", -1, later, 0.105, 7.0),  # a correction within 1, and not beside it
            ("4", "c", 5, day, 0.0, 8.0),  # a gift
            ("A5", "B", 1, day, 9.0, 8.0),  # bad debt
            ("6", "d", -1, day, 2.0, 8.0),  # less than nothing
            ("C7", "d", 1, day, 2.0, 8.0),
            ("8", "d", 1, None, 2.0, 8.0),
        ],
    )
    sent = decoded(online_retail(file, tally := Tally())).set_index("order_id")
    assert sent.amount.to_dict() == {"1": 0.2, "C3": 2.01}  # 0.195 and 2.010
    assert sent.kind.to_dict() == {"1": "placed", "C3": "returned"}
    assert sent.occurred_at.to_dict() == {"1": 1_294_228_800, "C3": 1_294_228_800}
    assert sent["items"].to_dict() == {
        "1": [{"sku": "a", "quantity": 3.0, "unit_price": 0.1}],
        "C3": [{"sku": "a", "quantity": 2.0, "unit_price": 1.005}],
    }
    assert {r: (s.count, s.first_line) for r, s in tally.skipped.items()} == {
        NO_CUSTOMER: (1, 2),
        OTHER_INVOICE: (1, 6),
        ZERO_SUM: (1, 5),
        WRONG_SIGN: (2, 7),
        "occurred_at: is not a time (see --time-format)": (1, 9),
    }
    assert "items" not in decoded(online_retail(file, items=False)).columns


def test_another_file_is_not_taken_for_online_retail(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("InvoiceNo,b\n1,2\n")
    with pytest.raises(
        ReplayUsageError, match=r"lacks StockCode.*\n?.*Columns found: InvoiceNo, b"
    ):
        list(online_retail(file))
