"""A file, row by row: CSV, whitespace-separated text, JSON lines, Parquet. Never all in memory."""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from valuetide.streams.replay.errors import ReplayError, ReplayUsageError
from valuetide.streams.replay.files import Kind, kind_of, open_text
from valuetide.streams.replay.tally import Tally

PARQUET_BATCH_ROWS: Final = 8_192
JSON_SAMPLE_ROWS: Final = 100
"""Objects whose members are looked at to find the columns; later ones may still have others."""

NOT_AN_OBJECT: Final = "row: is not a JSON object"
TOO_MANY_CELLS: Final = "row: has more cells than there are columns"
_DELIMITERS: Final = ",;\t|"


class Row(NamedTuple):
    """One row.

    Attributes
    ----------
    line
        Line of the file where it ends; in Parquet its number.
    number
        Its number among all rows, from 1, the invalid ones too.
    cells
        Column to value; text, or what JSON and Parquet give.
    """

    line: int
    number: int
    cells: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """What can be read from a file: its columns, and its rows once."""

    columns: tuple[str, ...]
    rows: Iterator[Row]


@dataclass(frozen=True, slots=True)
class TextForm:
    """How a text file is to be read.

    Attributes
    ----------
    columns
        Names of the columns of a file that has no header line; empty: the first line names them.
    delimiter
        One character between the cells of a CSV file; None: the likeliest in the first line.
    encoding
        Python's name of it; the default takes a byte order mark or none.
    """

    columns: tuple[str, ...] = ()
    delimiter: str | None = None
    encoding: str = "utf-8-sig"


def read_table(path: Path, tally: Tally, form: TextForm | None = None) -> Table:
    """Begin to read a file.

    Parameters
    ----------
    path
        The file; the end of its name tells its kind.
    tally
        Counts the rows, and those that cannot be read.
    form
        For text files.

    Raises
    ------
    ReplayUsageError
        When the kind of file is unknown.
    ReplayError
        When it cannot be read or is empty; this can happen while its rows are read, too.
    """
    readers: dict[Kind, Callable[[], Iterator[Row | tuple[str, ...]]]] = {
        "csv": lambda: _read_csv(path, tally, form or TextForm()),
        "text": lambda: _read_words(path, tally, form or TextForm()),
        "jsonl": lambda: _read_json_lines(path, tally, form or TextForm()),
        "parquet": lambda: _read_parquet(path, tally),
    }
    # Each reader gives the names of the columns first, then the rows.
    reader = readers[kind_of(path)]()
    columns = next(reader, None)
    if columns is None or isinstance(columns, Row):
        raise ReplayError(f"{path.name}: has no rows")
    return Table(columns, (row for row in reader if isinstance(row, Row)))


def _read_csv(path: Path, tally: Tally, form: TextForm) -> Iterator[Row | tuple[str, ...]]:
    with open_text(path, form.encoding) as file:
        first = file.readline()
        delimiter = form.delimiter or max(_DELIMITERS, key=first.count)
        if len(delimiter) != 1:
            raise ReplayUsageError("--delimiter: must be one character")
        reader = csv.reader(itertools.chain([first], file), delimiter=delimiter)
        columns = form.columns or tuple(name.strip() for name in next(reader, []))
        if not columns:
            return
        yield columns
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                tally.rows += 1
                tally.invalid("row: is not CSV", reader.line_num)
                continue
            if cells:
                yield from _row(cells, columns, reader.line_num, tally)


def _read_words(path: Path, tally: Tally, form: TextForm) -> Iterator[Row | tuple[str, ...]]:
    with open_text(path, form.encoding) as file:
        lines = _words(file)
        columns = form.columns or next(((*names,) for _, names in lines), ())
        if not columns:
            return
        yield columns
        for line, cells in lines:
            yield from _row(cells, columns, line, tally)


def _words(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    for line, text in enumerate(file, 1):
        cells = text.split()
        if cells:
            yield line, cells


def _row(cells: list[str], columns: tuple[str, ...], line: int, tally: Tally) -> Iterable[Row]:
    tally.rows += 1
    if len(cells) > len(columns):
        tally.invalid(TOO_MANY_CELLS, line)
        return ()
    # A row that is cut short lacks its last columns; the mapping says which field is missing.
    return (Row(line, tally.rows, dict(zip(columns, cells, strict=False))),)


def _read_json_lines(path: Path, tally: Tally, form: TextForm) -> Iterator[Row | tuple[str, ...]]:
    with open_text(path, form.encoding) as file:
        rows = _json_objects(file, tally)
        head = list(itertools.islice(rows, JSON_SAMPLE_ROWS))
        # Objects need not all have the same members: a dictionary as an ordered set of names.
        names = dict.fromkeys(itertools.chain.from_iterable(row.cells for row in head))
        if names:
            yield (*names,)
        yield from head
        yield from rows


def _json_objects(file: TextIO, tally: Tally) -> Iterator[Row]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        tally.rows += 1
        try:
            cells = json.loads(text)
        except (ValueError, RecursionError):
            cells = None
        if isinstance(cells, dict):
            yield Row(line, tally.rows, cells)
        else:
            tally.invalid(NOT_AN_OBJECT, line)


def _read_parquet(path: Path, tally: Tally) -> Iterator[Row | tuple[str, ...]]:
    import pyarrow as pa  # noqa: PLC0415 - only who reads Parquet waits for it
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            yield (*file.schema_arrow.names,)
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                names = batch.schema.names
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    tally.rows += 1
                    yield Row(tally.rows, tally.rows, dict(zip(names, values, strict=True)))
    except (pa.ArrowException, OSError) as error:
        raise ReplayError(f"{path.name}: is no readable Parquet file: {error}") from None
