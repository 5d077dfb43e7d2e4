import numpy as np

from valuetide.scoring.ledger import COLUMNS, Ledger


def entries(values: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.tile(np.array(values, np.int64), (COLUMNS, 1))


def test_a_row_stays_in_its_block_while_it_has_room() -> None:
    ledger = Ledger()
    ledger.grow(2)
    for length in (1, 4, 2, 0, 3):
        ledger.replace(np.array([1]), entries([5] * length), np.array([length]))
        assert (ledger.used, ledger.garbage) == (4, 0)


def test_a_row_that_outgrows_its_block_leaves_garbage() -> None:
    ledger = Ledger()
    ledger.grow(2)
    ledger.replace(np.array([0]), entries([1, 2, 3, 4]), np.array([4]))
    ledger.replace(np.array([0]), entries([1, 2, 3, 4, 5]), np.array([5]))
    assert (ledger.used, ledger.garbage) == (12, 4)
    assert ledger.gather(np.array([0]))[0][0].tolist() == [1, 2, 3, 4, 5]


def test_a_full_arena_is_compacted_and_keeps_every_row() -> None:
    ledger, everyone = Ledger(), np.arange(50)
    ledger.grow(50)
    garbage = [0]
    for length in (3, 7, 12, 16):
        for rows in np.array_split(everyone, 10):
            content = np.repeat(rows, length) * 100 + np.tile(np.arange(length), rows.size)
            ledger.replace(rows, entries(content.tolist()), np.full(rows.size, length))
            garbage.append(ledger.garbage)
        found, lengths = ledger.gather(everyone)
        expected = np.repeat(everyone, length) * 100 + np.tile(np.arange(length), 50)
        assert found[3].tolist() == expected.tolist()
        assert lengths.tolist() == [length] * 50
    assert min(np.diff(garbage)) < 0
    assert ledger.used - ledger.garbage == 50 * 16


def test_growing_keeps_what_there_is() -> None:
    ledger = Ledger()
    ledger.grow(1)
    ledger.replace(np.array([0]), entries([7]), np.array([1]))
    ledger.grow(3)
    assert ledger.gather(np.array([2, 0, 1]))[1].tolist() == [0, 1, 0]
