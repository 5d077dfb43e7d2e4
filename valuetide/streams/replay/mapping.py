"""From the columns of a file to the fields of an event."""

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from valuetide.schemas.errors import InvalidEventError
from valuetide.streams.replay.errors import ReplayUsageError
from valuetide.streams.replay.event import EVENT_TYPES, Role
from valuetide.streams.replay.rows import Row
from valuetide.streams.replay.times import time_parser

ROW_ID: Final = "@id"
"""Stands for a column: an id made from the file's content and the number of the row. It is what
``event_id`` is unless something else is said, so that a repeat of a row is known as one."""

NUMBERS: Final = frozenset({"amount", "cost", "score"})
STRUCTURES: Final = frozenset({"items", "needs", "attributes", "scale"})
"""Fields that hold a list or an object; in a text file they are written as JSON."""


@dataclass(frozen=True, slots=True)
class MappingSpec:
    """What was asked for.

    Attributes
    ----------
    columns
        Field to column.
    constants
        Field to the text of its value, the same in every event.
    time_format
        How times are written, see :func:`valuetide.streams.replay.times.time_parser`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    time_format: str | None = None

    def over(self, other: "MappingSpec") -> "MappingSpec":
        """Give the other with what this one says about the same fields in its place."""
        said = {*self.columns, *self.constants}
        columns = {f: c for f, c in other.columns.items() if f not in said}
        constants = {f: c for f, c in other.constants.items() if f not in said}
        return replace(
            self,
            columns=columns | dict(self.columns),
            constants=constants | dict(self.constants),
            time_format=self.time_format or other.time_format,
        )


def load_mapping(path: Path) -> MappingSpec:
    """Read a mapping from a TOML file: ``time_format``, and the tables ``map`` and ``set``.

    Raises
    ------
    ReplayUsageError
        When it is not such a file.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReplayUsageError(f"{path.name}: {error}") from None
    unknown = sorted(content.keys() - {"map", "set", "time_format"})
    if unknown:
        raise ReplayUsageError(
            f"{path.name}: has {', '.join(unknown)}; known are [map], [set] and time_format"
        )
    columns, constants = content.get("map", {}), content.get("set", {})
    time_format = content.get("time_format")
    if not (isinstance(columns, dict) and isinstance(constants, dict)):
        raise ReplayUsageError(f"{path.name}: [map] and [set] must be tables, field = value")
    if not isinstance(time_format, str | None):
        raise ReplayUsageError(f"{path.name}: time_format must be a text")
    written = {f: v if isinstance(v, str) else json.dumps(v) for f, v in constants.items()}
    return MappingSpec({f: str(c) for f, c in columns.items()}, written, time_format)


class RowMapper:
    """Takes the fields of events from rows.

    Parameters
    ----------
    role
        The topic, which decides the fields.
    found
        Columns of the file.
    spec
        What was asked for. A field about which it says nothing is taken from the column of its
        own name, if there is one.
    id_prefix
        First part of the ids that are made.

    Raises
    ------
    ReplayUsageError
        When a field or column is unknown or a required field has no source; the text lists what
        there is.

    Examples
    --------
    >>> spec = MappingSpec({"customer_id": "who"}, {"kind": "visit"})
    >>> mapper = RowMapper("interactions", ("who", "occurred_at"), spec, "web")
    >>> fields, at = mapper.fields(Row(2, 1, {"who": "c1", "occurred_at": "60"}))
    >>> fields["customer_id"], fields["kind"], fields["event_id"], at
    ('c1', 'visit', 'web-1', 60.0)
    """

    def __init__(
        self, role: Role, found: tuple[str, ...], spec: MappingSpec, id_prefix: str
    ) -> None:
        event = EVENT_TYPES[role]
        names = sorted(event.__required_keys__) + sorted(event.__optional_keys__)
        _refuse_unknown(names, found, spec)
        given = {"event_id", *found, *spec.columns, *spec.constants}
        missing = [name for name in names if name in event.__required_keys__ - given]
        if missing:
            raise ReplayUsageError(
                f"nothing says what {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'}.\n"
                f"Columns found: {', '.join(found)}\n"
                f"Say it with --map {missing[0]}=COLUMN or --set {missing[0]}=VALUE"
                f" ({ROW_ID} is a column too: an id made from the row's number)."
            )
        # A name that is not among the columns is asked for all the same: not every line of a
        # JSON-lines file need have it.
        columns = {name: name for name in names} | dict(spec.columns)
        self._constants = _constants(spec)
        self._columns = [
            (name, column, _converter(name))
            for name, column in columns.items()
            if name not in spec.constants and name != "occurred_at"
        ]
        self._time_column = columns["occurred_at"]
        self._parse_time = time_parser(spec.time_format)
        self._constant_time = spec.constants.get("occurred_at")
        self._id_prefix = id_prefix

    def fields(self, row: Row) -> tuple[dict[str, Any], float]:
        """Give an event's fields, all but the time, and its time in epoch seconds.

        Raises
        ------
        InvalidEventError
            When a cell cannot be what it should, or the time is missing. Other missing fields
            are left to the schema.
        """
        row_id = f"{self._id_prefix}-{row.number}"
        fields = {"event_id": row_id} | self._constants
        cells = row.cells
        for name, column, convert in self._columns:
            value = row_id if column == ROW_ID else cells.get(column)
            if not _is_empty(value):
                fields[name] = convert(name, value)
        when = self._constant_time or cells.get(self._time_column)
        if _is_empty(when):
            raise InvalidEventError("occurred_at: is missing")
        if "customer_id" not in fields:
            raise InvalidEventError("customer_id: is missing")
        return fields, self._parse_time(when)


def _refuse_unknown(names: list[str], found: tuple[str, ...], spec: MappingSpec) -> None:
    twice = spec.columns.keys() & spec.constants.keys()
    if twice:
        raise ReplayUsageError(f"{min(twice)}: both mapped to a column and set to a value")
    for name in (*spec.columns, *spec.constants):
        if name not in names:
            raise ReplayUsageError(f"{name}: is no field of this topic. Fields: {', '.join(names)}")
    for name, column in spec.columns.items():
        if column not in (*found, ROW_ID):
            raise ReplayUsageError(
                f"{name}={column}: there is no such column. Columns found: {', '.join(found)}"
            )


def _constants(spec: MappingSpec) -> dict[str, Any]:
    try:
        return {
            name: _converter(name)(name, text)
            for name, text in spec.constants.items()
            if name != "occurred_at"
        }
    except InvalidEventError as error:
        raise ReplayUsageError(f"--set {error}") from None


def _is_empty(value: object) -> bool:
    # NaN is how a missing number stands in a column of floats.
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def _converter(name: str) -> Callable[[str, Any], Any]:
    if name in NUMBERS:
        return _as_number
    return _as_structure if name in STRUCTURES else _as_text


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # ids in a column of floats
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    raise InvalidEventError(f"{name}: is not a text")


def _as_number(name: str, value: object) -> float:
    try:
        if isinstance(value, str | int | float | Decimal) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise InvalidEventError(f"{name}: is not a number (a decimal point, no thousands marks)")


def _as_structure(name: str, value: object) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidEventError(f"{name}: is not JSON") from None
