"""Known data sets, read without a mapping: each gives its events in the order of event time."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from valuetide.streams.replay.event import Encoder, SourceEvent
from valuetide.streams.replay.presets.cdnow import cdnow, cdnow_rows, cdnow_sample, sample_rows
from valuetide.streams.replay.presets.online_retail import invoices, online_retail
from valuetide.streams.replay.tally import Tally

__all__ = ["READERS", "cdnow", "cdnow_sample", "online_retail"]

READERS: Final[dict[str, Callable[[Path, Tally, Encoder, str], Iterable[SourceEvent]]]] = {
    "cdnow": cdnow_rows,
    "cdnow-sample": sample_rows,
    "online-retail": invoices,
}
"""Name to a function that gives the events in the file's order, from the path, the tally, the
encoder and the currency to write."""
