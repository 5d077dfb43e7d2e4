import gzip
import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from valuetide.streams.replay.errors import ReplayError, ReplayUsageError
from valuetide.streams.replay.rows import (
    NOT_AN_OBJECT,
    PARQUET_BATCH_ROWS,
    TOO_MANY_CELLS,
    TextForm,
    read_table,
)
from valuetide.streams.replay.tally import Tally


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_is_read_whatever_separates_its_cells(tmp_path: Path, delimiter: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text("\ufeff" + "who,note\nc1,x\n\nc2,\n".replace(",", delimiter), "utf-8")
    table = read_table(file, tally := Tally())
    assert table.columns == ("who", "note")
    assert [tuple(row) for row in table.rows] == [
        (2, 1, {"who": "c1", "note": "x"}),
        (4, 2, {"who": "c2", "note": ""}),
    ]
    assert tally.rows == 2


def test_quotes_may_hold_line_ends_and_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(b'who,note\r\nc1,"a\r\n""b"", c"\r\nc2,d\r\n'))
    rows = list(read_table(file, Tally()).rows)
    assert rows[0].cells["note"] == 'a\r\n"b", c'
    assert [(row.line, row.number) for row in rows] == [(3, 1), (4, 2)]


def test_short_rows_lack_columns_and_long_ones_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n1\n1,2,3\n1,2\n")
    tally = Tally()
    rows = list(read_table(file, tally).rows)
    assert [row.cells for row in rows] == [{"a": "1"}, {"a": "1", "b": "2"}]
    assert [row.number for row in rows] == [1, 3]
    assert (tally.rows, tally.skipped[TOO_MANY_CELLS].first_line) == (3, 3)


def test_names_can_be_given_where_no_line_has_them(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("1,2\n3,4\n")
    table = read_table(file, Tally(), TextForm(columns=("a", "b")))
    assert [row.cells for row in table.rows] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_text_is_split_at_blanks(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("  who   date\r\n 1\t19970101 \r\n\r\n 2 19970102")
    table = read_table(file, Tally())
    assert table.columns == ("who", "date")
    assert [tuple(row) for row in table.rows] == [
        (2, 1, {"who": "1", "date": "19970101"}),
        (4, 2, {"who": "2", "date": "19970102"}),
    ]


def test_json_lines_are_read_and_what_is_no_object_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n[1]\n{"a": \n{"b": [2]}\n')
    tally = Tally()
    table = read_table(file, tally)
    assert table.columns == ("a", "b")
    assert [tuple(row) for row in table.rows] == [(1, 1, {"a": 1}), (5, 4, {"b": [2]})]
    assert (tally.rows, tally.skipped[NOT_AN_OBJECT].count) == (4, 2)
    assert tally.skipped[NOT_AN_OBJECT].first_line == 3


def test_a_late_member_of_json_lines_is_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        "\n".join(json.dumps({"a": i} | ({"b": i} if i == 500 else {})) for i in range(501))
    )
    rows = list(read_table(file, Tally()).rows)
    assert rows[-1].cells == {"a": 500, "b": 500}
    assert [row.number for row in rows] == list(range(1, 502))


def test_parquet_is_read_over_its_batches(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    n = PARQUET_BATCH_ROWS + 1
    day = datetime(2011, 1, 5)
    pq.write_table(pa.table({"who": list(range(n)), "at": [day] * n, "x": [None] * n}), file)
    tally = Tally()
    table = read_table(file, tally)
    assert table.columns == ("who", "at", "x")
    rows = list(table.rows)
    assert [row.cells["who"] for row in rows] == list(range(n))
    assert rows[-1] == (n, n, {"who": n - 1, "at": day, "x": None})
    assert tally.rows == n


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("")
    with pytest.raises(ReplayError, match="has no rows"):
        read_table(file, Tally())


def test_what_is_no_parquet_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_text("no")
    with pytest.raises(ReplayError, match=r"a\.parquet: is no readable Parquet file"):
        read_table(file, Tally())


def test_a_delimiter_is_one_character(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n")
    with pytest.raises(ReplayUsageError, match="--delimiter"):
        read_table(file, Tally(), TextForm(delimiter="ab"))


def test_reading_is_lazy(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n" + "1\n" * 100_000)
    tally = Tally()
    next(read_table(file, tally).rows)
    assert tally.rows == 1


def test_strict_stops_at_the_first_invalid_row(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n1\n1,2\n")
    with pytest.raises(ReplayError, match=r"line 3: row: has more cells"):
        list(read_table(file, Tally(strict=True)).rows)
