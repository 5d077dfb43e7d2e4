"""The messages on disk: good ones pass everywhere, bad ones are refused by the field's name."""

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest
from pydantic import TypeAdapter, ValidationError

from valuetide.schemas.documents import json_schemas
from valuetide.schemas.events import MAX_ENTRIES, MAX_ITEMS, Feedback, Interaction, Order
from valuetide.schemas.topics import TOPICS
from valuetide.schemas.vocabulary import Vocabulary

FOLDER = Path(__file__).resolve().parents[2] / "examples"
ADAPTERS = {topic.role.replace("_", "-"): TypeAdapter(topic.message) for topic in TOPICS}
SCHEMAS = json_schemas()
GOOD = sorted(file for name in ADAPTERS for file in (FOLDER / name).glob("*.json"))
BAD = sorted((FOLDER / "bad").glob("*.json"))

# NaN and infinity are not JSON, though Python reads them: some bounds let NaN through. Whether a
# schema checks a date or only notes its form is the reader's choice. In Python's regular
# expressions, unlike in those of JSON Schema, a dollar also matches before a last line feed.
BEYOND_SCHEMAS = {
    *(file.stem for file in BAD if "NaN" in file.read_text("utf-8")),
    "occurred_at_february_30",
    "currency_with_newline",
}


def kinds_on_disk(topic: str) -> set[str]:
    return {json.loads(file.read_text("utf-8"))["kind"] for file in (FOLDER / topic).iterdir()}


def good(topic: str, name: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads((FOLDER / topic / f"{name}.json").read_text("utf-8"))
    return message


def names_of_refusal(topic: str, value: str | bytes) -> set[str]:
    """Give the names in the refusal: fields, or JSON or object where no field was reached."""
    with pytest.raises(ValidationError) as refusal:
        ADAPTERS[topic].validate_json(value)
    whole = {"json_invalid": "JSON", "dict_type": "object"}
    return {str(e["loc"][0]) if e["loc"] else whole[e["type"]] for e in refusal.value.errors()}


@pytest.mark.parametrize("file", GOOD, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_good_message_passes_validator_and_schema(file: Path) -> None:
    text = file.read_text("utf-8")
    topic = file.parent.name
    ADAPTERS[topic].validate_json(text)
    jsonschema.Draft202012Validator(SCHEMAS[topic]).validate(json.loads(text))


def test_there_is_an_example_of_every_kind() -> None:
    assert kinds_on_disk("orders") == set(get_args(get_type_hints(Order)["kind"]))
    assert kinds_on_disk("interactions") == set(Vocabulary().interaction_kinds)
    assert kinds_on_disk("feedback") == set(get_args(get_type_hints(Feedback)["kind"]))
    assert all(any((FOLDER / name).iterdir()) for name in ADAPTERS)


@pytest.mark.parametrize("message", [Order, Interaction, Feedback])
def test_every_optional_field_is_used_somewhere(message: Any) -> None:
    topic = next(topic for topic in TOPICS if topic.message is message).role
    used = {name for file in (FOLDER / topic).iterdir() for name in json.loads(file.read_text())}
    assert used == message.__required_keys__ | message.__optional_keys__


def test_every_message_has_its_own_event_id() -> None:
    inputs = [file for file in GOOD if file.parent.name in ("orders", "interactions", "feedback")]
    ids = [json.loads(file.read_text("utf-8"))["event_id"] for file in inputs]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_a_bad_message_is_refused_by_the_fields_name(file: Path) -> None:
    case = json.loads(file.read_text("utf-8"))
    assert case.keys() == {"topic", "value", "reason_names"}
    assert names_of_refusal(case["topic"], case["value"]) == {case["reason_names"]}


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_the_schema_refuses_what_the_validator_refuses(file: Path) -> None:
    """A producer who checks against the schema is not surprised."""
    case = json.loads(file.read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(SCHEMAS[case["topic"]])
    if case["reason_names"] == "JSON" or file.stem in BEYOND_SCHEMAS:
        assert names_of_refusal(case["topic"], case["value"])
    else:
        assert not validator.is_valid(json.loads(case["value"]))


def test_nesting_a_thousand_deep_is_refused_and_does_no_harm() -> None:
    order = json.dumps(good("orders", "placed_minimal"))
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deep = opening * 1_000 + "1" + closing * 1_000
        assert names_of_refusal("orders", deep) == {"JSON"}
        assert names_of_refusal("orders", order[:-1] + f', "unknown": {deep}}}') == {"JSON"}


@pytest.mark.parametrize("field", ["event_id", "customer_id", "order_id", "kind", "channel"])
def test_a_megabyte_in_a_short_field_is_refused(field: str) -> None:
    order = good("orders", "placed") | {field: "x" * 1_048_576}
    assert names_of_refusal("orders", json.dumps(order)) == {field}


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    order = json.dumps(good("orders", "placed_minimal") | {"customer_id": "@"}).encode()
    assert names_of_refusal("orders", order.replace(b"@", b"\xff\xfe")) == {"JSON"}
    assert names_of_refusal("orders", order.decode().encode("utf-16")) == {"JSON"}


@pytest.mark.parametrize("field", ["event_id", "customer_id", "order_id"])
def test_an_id_may_have_128_characters_and_no_more(field: str) -> None:
    order = good("orders", "placed")
    ADAPTERS["orders"].validate_json(json.dumps(order | {field: "ü" * 128}))
    assert names_of_refusal("orders", json.dumps(order | {field: "ü" * 129})) == {field}


def test_lists_and_mappings_are_bounded() -> None:
    order = good("orders", "placed")
    lines = [{"sku": "TEA"}] * MAX_ITEMS
    ADAPTERS["orders"].validate_json(json.dumps(order | {"items": lines}))
    more = order | {"items": [*lines, {"sku": "TEA"}]}
    assert names_of_refusal("orders", json.dumps(more)) == {"items"}
    for topic, name, field in (
        ("interactions", "view", "needs"),
        ("feedback", "csat", "attributes"),
    ):
        entries = {f"n{i}": 1 for i in range(MAX_ENTRIES)}
        message = good(topic, name)
        ADAPTERS[topic].validate_json(json.dumps(message | {field: entries}))
        over = message | {field: entries | {"one more": 1}}
        assert names_of_refusal(topic, json.dumps(over)) == {field}


def test_every_missing_field_is_named() -> None:
    required = Order.__required_keys__
    assert names_of_refusal("orders", "{}") == required
    order = good("orders", "placed")
    for field in required:
        rest = {name: value for name, value in order.items() if name != field}
        assert names_of_refusal("orders", json.dumps(rest)) == {field}
