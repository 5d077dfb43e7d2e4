import numpy as np

from valuetide.scoring.arrays import Segments, group_sizes, group_starts, sorting, spans


def test_spans_of_nothing_are_empty() -> None:
    nothing = np.empty(0, np.int64)
    assert spans(nothing, nothing).tolist() == []
    assert spans(np.array([3]), np.array([0])).tolist() == []


def test_groups_of_nothing_are_empty() -> None:
    nothing = np.empty(0, np.int64)
    assert group_starts(nothing).tolist() == []
    assert group_sizes(nothing, 0).tolist() == []


def test_sorting_is_stable_with_small_and_with_large_keys() -> None:
    keys = np.array([3, 1, 3, 0, 1])
    assert sorting(keys, 2).tolist() == [3, 1, 4, 0, 2]
    assert sorting(keys << 60, 62).tolist() == [3, 1, 4, 0, 2]


def test_an_empty_segment_gets_the_stated_value_wherever_it_stands() -> None:
    segments = Segments.of(np.array([0, 2, 0, 1, 0]))
    assert segments.reduce(np.minimum, np.array([4, 3, 9]), -1).tolist() == [-1, 3, -1, 9, -1]
    nothing = np.empty((2, 0), np.int64)
    assert Segments.of(np.array([0, 0])).reduce(np.add, nothing).tolist() == [[0, 0], [0, 0]]
