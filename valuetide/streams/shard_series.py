"""What a shard adds to the series: its cells, and up to when it has seen events of each topic."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from valuetide.schemas.topics import INPUTS
from valuetide.scoring.fold import KIND_RETURNED, Folded
from valuetide.scoring.series import (
    Labels,
    OpenCells,
    answer_sums,
    contact_sums,
    order_sums,
)
from valuetide.scoring.signals import CONTACT
from valuetide.streams.closings import Closings
from valuetide.streams.decode import Decoded, Role
from valuetide.streams.settings import Settings
from valuetide.streams.store import ShardRecord

VALUE_TIERS = ("new", "1", "2", "3", "4", "5")
"""Who has no order yet, and the monetary digit of RFM: what a customer has spent so far."""


class ShardSeries:
    """Cells of one shard, as of the last event that was folded.

    Parameters
    ----------
    settings
        Which series there are.
    record
        What the store knows of the shard.

    Raises
    ------
    ValueError
        When that cannot be read.
    """

    def __init__(self, settings: Settings, record: ShardRecord) -> None:
        series, words, fields = settings.series, settings.vocabulary, record.fields
        self._enabled = series.enabled
        self._equity = series.equity
        self._tiers = series.segmented
        self._bands = np.array(words.rfm.revenue) * 10.0**words.minor_digits
        self._seen_to = {role: int(fields.get(f"max_event_at:{role}", 0)) for role in INPUTS}
        self._cells = OpenCells(
            series.bucket,
            series.most_elements,
            record.series,
            late=int(fields.get("series:late", 0)),
            gone=int(fields.get("series:gone", 0)),
        )

    def note_time(self, role: Role, at_ms: int) -> None:
        """Note that there was an event of a topic at a moment."""
        self._seen_to[role] = max(self._seen_to[role], at_ms)

    def fold(
        self,
        role: Role,
        decoded: Decoded,
        folded: Folded,
        rows: NDArray[np.intp],
        scored: Mapping[str, NDArray[np.int64]],
    ) -> None:
        """Add the accepted ones of a batch of events.

        Parameters
        ----------
        role, decoded, folded, rows
            The batch, what folding it did, and the customers' rows, (n,).
        scored
            By name the totals of every row as of its last score, so before the batch.
        """
        accepted = folded.accepted
        if not self._enabled or not accepted.any():
            return
        if role == "orders":
            returned = decoded.kind == KIND_RETURNED
            # An order that is sent again under another event id is an event, but no other order.
            sums = order_sums(folded.made, returned, decoded.amount, folded.first)
        elif role == "interactions":
            sums = contact_sums(decoded.signal == CONTACT)
        else:
            sums = answer_sums(decoded.satisfaction)
        labels = dict(decoded.labels)
        if self._tiers:
            tier = 1 + np.searchsorted(self._bands, scored["revenue"][rows], side="right")
            labels["value_tier"] = Labels(
                np.where(scored["orders"][rows] == 0, 0, tier), VALUE_TIERS
            )
        at = decoded.at
        if not accepted.all():
            at, sums = at[accepted], sums[:, accepted]
            labels = {name: Labels(of.codes[accepted], of.names) for name, of in labels.items()}
        self._cells.add(role, at, sums, labels)

    def close(self, closings: Closings, partition: int) -> None:
        """Let go of what the watch has closed."""
        self._cells.close(closings.closed, closings.closed_hour, closings.taken(partition))

    def fields(self) -> dict[str, str | int]:
        """Give what the shard's record says of its series."""
        times = {f"max_event_at:{role}": at for role, at in self._seen_to.items()}
        return {**times, "series:late": self._cells.late, "series:gone": self._cells.gone}

    def changes(self, at_ms: int, equity: int) -> dict[str, bytes | None]:
        """Give the cells that changed since the last commit, ``None`` for those that are no more.

        Parameters
        ----------
        at_ms, equity
            The shard's largest event time, and what its customers are worth, minor units.
        """
        if self._equity and at_ms:
            self._cells.note_equity(at_ms, equity)
        return self._cells.take()
