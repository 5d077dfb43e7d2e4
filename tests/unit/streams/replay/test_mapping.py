import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from valuetide.schemas.errors import InvalidEventError
from valuetide.streams.replay.errors import ReplayUsageError
from valuetide.streams.replay.event import Encoder, Role
from valuetide.streams.replay.mapping import MappingSpec, RowMapper, load_mapping
from valuetide.streams.replay.rows import Row

SPEC = MappingSpec(
    {"customer_id": "who", "occurred_at": "day", "amount": "total", "order_id": "@id"},
    {"kind": "placed", "currency": "EUR"},
)
CELLS = {"who": "c1", "day": "1970-01-02", "total": "9.99"}


def encode(role: Role, spec: MappingSpec, cells: dict[str, Any]) -> dict[str, Any]:
    mapper = RowMapper(role, tuple(cells), spec, "id")
    fields, at = mapper.fields(Row(2, 1, cells))
    decoded: dict[str, Any] = json.loads(Encoder(role).encode(fields, at).value)
    return decoded


def test_columns_and_constants_become_an_order() -> None:
    assert encode("orders", SPEC, CELLS) == {
        "occurred_at": 86_400,
        "event_id": "id-1",
        "customer_id": "c1",
        "order_id": "id-1",
        "kind": "placed",
        "amount": 9.99,
        "currency": "EUR",
    }


def test_right_names_need_no_mapping_and_unknown_columns_are_dropped() -> None:
    order = {
        "event_id": "e",
        "customer_id": "c",
        "occurred_at": "2011-01-05T12:00:00Z",
        "order_id": "o",
        "kind": "returned",
        "amount": 1,
        "currency": "GBP",
        "items": [{"sku": "s", "quantity": 2, "colour": "red"}],
        "channel": None,
        "email": "private",
    }
    got = encode("orders", MappingSpec(), order)
    assert got["occurred_at"] == 1_294_228_800
    assert got["items"] == [{"sku": "s", "quantity": 2}]
    assert "email" not in got
    assert "channel" not in got


def test_structures_stand_as_json_in_text_files() -> None:
    spec = MappingSpec(constants={"kind": "csat", "scale": "[1, 5]"})
    cells = {
        "customer_id": "c",
        "occurred_at": "0",
        "score": "4",
        "attributes": '{"speed": 2}',
        "subject": "",
    }
    got = encode("feedback", spec, cells)
    assert (got["score"], got["scale"], got["attributes"]) == (4, [1, 5], {"speed": 2})
    assert "subject" not in got


@pytest.mark.parametrize(
    ("value", "text"),
    [(17850.0, "17850"), (17850, "17850"), (" a ", "a"), (Decimal(7), "7"), ("00012", "00012")],
)
def test_an_id_is_a_text_whatever_its_column(value: object, text: str) -> None:
    assert encode("orders", SPEC, CELLS | {"who": value})["customer_id"] == text


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"who": ""}, "customer_id: is missing"),
        ({"who": None}, "customer_id: is missing"),
        ({"who": float("nan")}, "customer_id: is missing"),
        ({"who": True}, "customer_id: is not a text"),
        ({"who": ["c"]}, "customer_id: is not a text"),
        ({"day": ""}, "occurred_at: is missing"),
        ({"day": "yesterday"}, "occurred_at: is not a time"),
        ({"day": "1969-12-31"}, "occurred_at: is before 1970"),
        ({"total": "1,234.00"}, "amount: is not a number"),
        ({"total": ""}, "amount: Field required"),
        ({"total": "-1"}, "amount: Input should be greater"),
        ({"total": "inf"}, "amount: Input should be "),
        ({"who": "c" * 129}, "customer_id: String should have at most 128"),
    ],
)
def test_a_row_that_is_no_event_is_refused_with_the_field(
    cells: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidEventError, match=f"^{reason}"):
        encode("orders", SPEC, CELLS | cells)


def test_what_has_no_source_is_listed_beside_what_was_found() -> None:
    with pytest.raises(ReplayUsageError) as caught:
        RowMapper("orders", ("who", "day"), MappingSpec({"customer_id": "who"}), "id")
    text = str(caught.value)
    assert "amount, currency, kind, occurred_at, order_id are" in text
    assert "Columns found: who, day" in text
    assert "--map amount=COLUMN or --set amount=VALUE" in text


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (MappingSpec({"customer": "who"}), "customer: is no field of this topic"),
        (MappingSpec({"customer_id": "whom"}), "there is no such column. Columns found: who"),
        (MappingSpec({"kind": "who"}, {"kind": "placed"}), "kind: both mapped"),
        (MappingSpec(constants={"colour": "red"}), "colour: is no field"),
    ],
)
def test_a_wrong_mapping_is_refused(spec: MappingSpec, text: str) -> None:
    with pytest.raises(ReplayUsageError, match=text):
        RowMapper("orders", ("who", "day", "total"), spec.over(SPEC), "id")


def test_a_constant_that_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(ReplayUsageError, match="--set amount: is not a number"):
        spec = MappingSpec(constants={"amount": "much"}).over(SPEC)
        RowMapper("orders", tuple(CELLS), spec, "id")


def test_a_mapping_file_says_the_same_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(
        'time_format = "%d.%m.%Y"\n[map]\ncustomer_id = "who"\nkind = "k"\n'
        '[set]\namount = 3.5\nscale = [1, 5]\ncurrency = "EUR"\n'
    )
    spec = load_mapping(file)
    assert spec.constants == {"amount": "3.5", "scale": "[1, 5]", "currency": "EUR"}
    both = MappingSpec({"currency": "cur"}, {"kind": "placed"}).over(spec)
    assert both.columns == {"customer_id": "who", "currency": "cur"}
    assert both.constants == {"amount": "3.5", "scale": "[1, 5]", "kind": "placed"}
    assert both.time_format == "%d.%m.%Y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "known are"),
        ("map = 1", "must be tables"),
        ("time_format = 1", "must be a text"),
        ("=", "m.toml"),
    ],
)
def test_a_wrong_mapping_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "m.toml"
    file.write_text(text)
    with pytest.raises(ReplayUsageError, match=message):
        load_mapping(file)
