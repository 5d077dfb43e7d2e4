"""The data sets that can be replayed without a mapping, by name. Their readers: ``presets``."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set that is known; all of them hold orders.

    Attributes
    ----------
    about
        One line for the help text.
    example
        A name of its file.
    currency
        ISO 4217 code of its amounts.
    """

    about: str
    example: str
    currency: str


DATA_SETS: Final[dict[str, DataSet]] = {
    "cdnow": DataSet("CDNOW, all customers", "CDNOW_master.txt", "USD"),
    "cdnow-sample": DataSet("CDNOW, the sample of a tenth", "CDNOW_sample.txt", "USD"),
    "online-retail": DataSet("UCI Online Retail, by invoice", "online_retail.parquet", "GBP"),
}
