"""A ledger holds what was last put into each row, through moves and compaction."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from valuetide.scoring.ledger import COLUMNS, Ledger

ROWS = 40


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.dictionaries(st.integers(0, ROWS - 1), st.integers(0, 16), min_size=1), max_size=25)
)
def test_rows_keep_what_was_put_last(writes: list[dict[int, int]]) -> None:
    ledger, model = Ledger(), [np.zeros((COLUMNS, 0), np.int64)] * ROWS
    ledger.grow(ROWS)
    serial = 0
    for write in writes:
        for row, length in write.items():
            model[row] = np.arange(serial, serial + COLUMNS * length).reshape(COLUMNS, length)
            serial += COLUMNS * length
        rows = np.array(list(write), np.int64)
        entries = np.concatenate([model[row] for row in write], axis=1)
        ledger.replace(rows, entries, np.array(list(write.values()), np.int64))
    found, lengths = ledger.gather(np.arange(ROWS))
    assert lengths.tolist() == [one.shape[1] for one in model]
    assert np.array_equal(found, np.concatenate(model, axis=1))
