"""Every good event becomes its columns; every bad one is rejected once, and named, not shown."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tests.unit.streams.helpers import EXAMPLES, answer, example, order, visit
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.decode import DAY_MS, Decoded, Decoder, Role

NOW_MS = 1_800_000_000_000
LIMIT = 4_096
WORDS = Vocabulary(exchange_rates={"USD": Decimal("0.5"), "JPY": Decimal("0.0061")})
DECODERS: dict[Role, Decoder] = {role: Decoder(role, WORDS, LIMIT) for role in get_args(Role)}
GOOD = sorted(file for role in DECODERS for file in (EXAMPLES / role).glob("*.json"))
BAD = sorted((EXAMPLES / "bad").glob("*.json"))
LABELS = {"value"} | {
    "event_id", "customer_id", "occurred_at", "order_id", "kind", "amount", "currency", "cost",
    "channel", "items", "arm", "needs", "score", "scale", "attributes", "source", "text",
}  # fmt: skip


def text(event: object) -> bytes:
    return json.dumps(event).encode()


def decode(role: Role, *values: bytes | None) -> Decoded:
    return DECODERS[role].decode(values, NOW_MS)


def rejection(role: Role, value: bytes | None) -> tuple[str, str]:
    """Give field and reason of a value that must be rejected, alone and among good ones."""
    makers = {"orders": order, "interactions": visit, "feedback": answer}
    good = [text(makers[role]("ann", n)) for n in range(3)]
    alone, among = decode(role, value), decode(role, *good[:2], value, good[2])
    assert len(alone.index) == 0
    assert among.index.tolist() == [0, 1, 3]
    (one,), (other,) = alone.rejections, among.rejections
    assert (one.index, other.index) == (0, 2)
    assert (one.field, one.reason) == (other.field, other.reason)
    assert one.field in LABELS
    assert len(one.reason) < 450
    return one.field, one.reason


# -- good events ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", GOOD, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_example_is_accepted_with_its_values(file: Path) -> None:
    event = json.loads(file.read_bytes())
    role: Role = file.parent.name  # type: ignore[assignment]
    decoded = decode(role, file.read_bytes())
    assert decoded.rejections == []
    assert decoded.index.tolist() == [0]
    assert decoded.customer == [event["customer_id"]]
    at = event["occurred_at"]
    seconds = at if isinstance(at, int | float) else datetime.fromisoformat(at).timestamp()
    assert decoded.at.tolist() == [round(seconds * 1000)]
    seed = list(DECODERS).index(role) + 1
    hashed = xxh3_64_intdigest(event["event_id"].encode(), seed) % 2**48
    assert decoded.event.tolist() == [hashed]
    money = [round((event.get("cost") or 0) * 100)]
    if role == "orders":
        rate = float(WORDS.exchange_rates.get(event["currency"], 1))
        assert decoded.kind.tolist() == [("placed", "returned", "cancelled").index(event["kind"])]
        hashed = xxh3_64_intdigest(event["order_id"].encode(), 4) % 2**48
        assert decoded.order.tolist() == [hashed]
        assert decoded.amount.tolist() == [round(event["amount"] * rate * 100)]
        money = [round((event.get("cost") or 0) * rate * 100)]
    else:
        assert len(decoded.kind) == len(decoded.order) == len(decoded.amount) == 0
    assert decoded.cost.tolist() == ([] if role == "feedback" else money)


def test_ids_of_different_topics_and_purposes_do_not_meet() -> None:
    same = {"event_id": "x", "order_id": "x"}
    hashes = [
        decode("orders", text(order("a", 1) | same)).event[0],
        decode("orders", text(order("a", 1) | same)).order[0],
        decode("interactions", text(visit("a", 1) | same)).event[0],
        decode("feedback", text(answer("a", 1) | same)).event[0],
    ]
    assert len(set(hashes)) == 4


@given(st.integers(0, 10**9), st.sampled_from(["EUR", "USD", "JPY"]))
def test_money_is_exact_and_converted_once(cents: int, currency: str) -> None:
    event = text(order("a", 1, amount=cents / 100, cost=cents / 100, currency=currency))
    decoded = decode("orders", event)
    rate = WORDS.exchange_rates.get(currency, Decimal(1))
    exact = cents * rate
    for found in (int(decoded.amount[0]), int(decoded.cost[0])):
        assert abs(found - exact) <= (0 if currency == "EUR" else Decimal("0.5001"))


@pytest.mark.parametrize("role", DECODERS)
def test_no_records_give_no_columns(role: Role) -> None:
    decoded = decode(role)
    assert [decoded.customer, decoded.rejections] == [[], []]
    assert decoded.index.tolist() == decoded.at.tolist() == decoded.event.tolist() == []


@pytest.mark.parametrize("field", ["event_id", "customer_id", "order_id"])
def test_an_id_of_128_characters_is_accepted(field: str) -> None:
    for one in ("x" * 128, "🙂" * 128, "\x00", "a\nb", "{}"):
        assert decode("orders", text(order("a", 1) | {field: one})).rejections == []


def test_an_event_may_be_a_day_ahead_and_as_old_as_1970() -> None:
    events = [order("a", 1, occurred_at=at) for at in (0, NOW_MS / 1000, (NOW_MS + DAY_MS) / 1000)]
    assert decode("orders", *map(text, events)).at.tolist() == [0, NOW_MS, NOW_MS + DAY_MS]


# -- bad ones -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_every_bad_example_is_rejected_by_the_fields_name(file: Path) -> None:
    case = json.loads(file.read_bytes())
    field, reason = rejection(case["topic"], case["value"].encode("utf-8", "surrogatepass"))
    name = case["reason_names"]
    if name in ("JSON", "object"):
        assert field == "value"
    else:
        assert (field, reason.split(":")[0].split(".")[0]) == (name, name)


ORDER = order("ann", 1)
WRONG: dict[str, tuple[Role, bytes | None, str, str]] = {
    "null": ("orders", None, "value", "value: is null"),
    "empty": ("orders", b"", "value", "value: "),
    "too large": ("orders", b" " * (LIMIT + 1), "value", "value: has 4097 bytes, at most 4096"),
    "a megabyte": ("orders", text(ORDER | {"channel": "x" * 10**6}), "value", "value: has 1000"),
    "no json": ("orders", b"hello", "value", "value: Invalid JSON"),
    "bytes": ("orders", b"\xff\xfe\x00", "value", "value: Invalid JSON"),
    "utf-16": ("orders", text(ORDER).decode().encode("utf-16"), "value", "value: Invalid JSON"),
    "comma": ("orders", b",", "value", "value: Invalid JSON"),
    "out of the array": ("orders", b"1],[2", "value", "value: "),
    "end of the array": ("orders", b"]", "value", "value: Invalid JSON"),
    "two objects": ("orders", text(ORDER) + b"," + text(ORDER), "value", "value: "),
    "two objects, no comma": ("orders", text(ORDER) + text(ORDER), "value", "value: "),
    "a list of one": ("orders", text([ORDER]), "value", "value: "),
    "deep": ("orders", b"[" * 1_000 + b"]" * 1_000, "value", "value: "),
    "deep inside": (
        "orders",
        text(ORDER)[:-1] + b', "more": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
        "value",
        "value: ",
    ),
    "NaN": ("orders", text(ORDER | {"amount": float("nan")}), "amount", "amount: "),
    "infinity": ("orders", text(ORDER | {"amount": float("inf")}), "amount", "amount: "),
    "negative": ("orders", text(ORDER | {"amount": -0.01}), "amount", "amount: "),
    "enormous": ("orders", text(ORDER | {"amount": 1e300}), "amount", "amount: "),
    "above the limit": (
        "orders", text(ORDER | {"amount": 10_000_000.01}), "amount", "amount: is above",
    ),
    "above it, converted": (
        "orders", text(ORDER | {"amount": 20_000_001, "currency": "USD"}), "amount", "amount: is",
    ),
    "cost above": ("orders", text(ORDER | {"cost": 1e8}), "cost", "cost: is above"),
    "visit's cost": (
        "interactions", text(visit("ann", 1, cost=1e8)), "cost", "cost: is above",
    ),
    "before 1970": (
        "orders", text(ORDER | {"occurred_at": -0.001}), "occurred_at", "occurred_at: is before",
    ),
    "year 1": (
        "orders", text(ORDER | {"occurred_at": "0001-01-01T00:00:00+23:59"}), "occurred_at",
        "occurred_at: is before 1970",
    ),
    "year 9999": (
        "orders", text(ORDER | {"occurred_at": "9999-12-31T23:59:59-23:59"}), "occurred_at",
        "occurred_at: is more than a day ahead",
    ),
    "ahead": (
        "orders", text(ORDER | {"occurred_at": (NOW_MS + DAY_MS + 1) / 1000}), "occurred_at",
        "occurred_at: is more than a day ahead",
    ),
    "currency": ("orders", text(ORDER | {"currency": "XXX"}), "currency", "currency: is not in"),
    "kind": ("orders", text(ORDER | {"kind": "sold"}), "kind", "kind: "),
    "visit's kind": ("interactions", text(visit("a", 1, kind="?")), "kind", "kind: is not in"),
    "id empty": ("orders", text(ORDER | {"customer_id": ""}), "customer_id", "customer_id: "),
    "id long": ("orders", text(ORDER | {"event_id": "x" * 129}), "event_id", "event_id: "),
    "scale": ("feedback", text(answer("a", 1, scale=[5, 1])), "scale", "scale: must be"),
    "flat scale": ("feedback", text(answer("a", 1, scale=[5, 5])), "scale", "scale: must be"),
    "score": ("feedback", text(answer("a", 1, score=6)), "score", "score: is not on the scale"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_every_way_to_be_wrong_is_named(case: str) -> None:
    role, value, field, beginning = WRONG[case]
    found, reason = rejection(role, value)
    assert found == field
    assert reason.startswith(beginning)


def test_an_event_with_several_faults_is_rejected_once() -> None:
    event = ORDER | {"occurred_at": -5, "amount": 1e9, "currency": "XXX", "cost": 1e9}
    assert rejection("orders", text(event))[0] == "occurred_at"


SECRET = "s3cr3t@example.org"
LEAKS: list[tuple[Role, dict[str, Any]]] = [
    *(("orders", order("a", 1) | {field: value})
      for field in ("event_id", "order_id", "kind", "amount", "currency", "occurred_at", "channel")
      for value in (SECRET * 20, [SECRET], {SECRET: SECRET})),
    ("orders", order("a", 1, items=[{"sku": "x", SECRET: 1}, {SECRET: 2}])),
    ("orders", order("a", 1, items={SECRET: 1})),
    ("interactions", visit("a", 1, kind=SECRET)),
    ("interactions", visit("a", 1, needs={SECRET: "much"})),
    ("interactions", visit("a", 1, needs={SECRET * 9: 1})),
    ("interactions", visit("a", 1, arm=SECRET)),
    ("feedback", answer("a", 1, attributes={SECRET: None})),
    ("feedback", answer("a", 1, source=SECRET, text=SECRET)),
    ("feedback", answer("a", 1, scale=[SECRET, 1])),
]  # fmt: skip


@pytest.mark.parametrize(("role", "event"), LEAKS)
def test_a_reason_never_repeats_what_somebody_wrote(role: Role, event: dict[str, Any]) -> None:
    assert SECRET not in rejection(role, text(event))[1]
    broken = rejection(role, text(event)[:-1])
    assert broken[0] == "value"
    assert SECRET not in broken[1]


def test_a_name_in_a_reason_says_where_in_a_list() -> None:
    event = order("a", 1, items=[{"sku": "x"}, {"sku": "y", "quantity": -1}])
    assert rejection("orders", text(event))[1].startswith("items.1.quantity: ")


def test_other_fields_are_ignored() -> None:
    assert decode("orders", text(ORDER | {"more": {"x": [1, None]}})).rejections == []


# -- everything mixed -----------------------------------------------------------------------------

by_role = {role: [value for of, value, _, _ in WRONG.values() if of == role] for role in DECODERS}


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Role, list[bytes | None], dict[int, str]]:
    """Values of one topic, and which of them are good: customer by place."""
    role: Role = draw(st.sampled_from(list(DECODERS)))
    maker = {"orders": order, "interactions": visit, "feedback": answer}[role]
    bad = st.sampled_from([*by_role[role], *by_role["orders"][:15]]) | st.binary(max_size=12)
    values: list[bytes | None] = []
    good: dict[int, str] = {}
    for place in range(draw(st.integers(0, 40))):
        if draw(st.booleans()):
            good[place] = f"c{place}"
            values.append(text(maker(f"c{place}", place)))
        else:
            values.append(draw(bad))
    return role, values, good


@settings(deadline=None, max_examples=200)
@given(mixtures())
def test_good_events_keep_their_place_among_any_bad_ones(
    mixture: tuple[Role, list[bytes | None], dict[int, str]],
) -> None:
    role, values, good = mixture
    decoded = decode(role, *values)
    assert dict(zip(decoded.index.tolist(), decoded.customer, strict=True)) == good
    assert decoded.index.tolist() == sorted(good)
    rejected = sorted(one.index for one in decoded.rejections)
    assert rejected == [place for place in range(len(values)) if place not in good]
    columns = (decoded.event, decoded.at)
    assert {len(column) for column in columns} == {len(good)}


def test_take_keeps_what_belongs_together() -> None:
    decoded = decode("orders", *(text(order(f"c{n}", n, amount=n)) for n in range(5)), None)
    part = decoded.take(decoded.at % 2 == decoded.at[1] % 2)
    whole = decoded.take(decoded.at > 0)
    assert whole.customer == decoded.customer
    assert part.rejections == decoded.rejections
    assert part.customer == [decoded.customer[i] for i in part.index.tolist()]
    assert part.amount.tolist() == [int(c[1:]) * 100 for c in part.customer]


def test_a_whole_chunk_of_rubbish_is_rejected_one_by_one() -> None:
    decoded = decode("orders", *([b"rubbish"] * 1_000))
    assert [one.index for one in decoded.rejections] == list(range(1_000))


def test_examples_are_read_from_disk() -> None:
    assert example("orders", "placed")["kind"] == "placed"


# -- limits that a shop sets ----------------------------------------------------------------------

STRICT = Vocabulary(max_items=2, max_needs=1, max_attributes=0, max_id_length=5)
LIMITED: list[tuple[Role, dict[str, Any], str, str]] = [
    ("orders", order("ann", 1, items=[{"sku": "x"}] * 2), "", ""),
    ("orders", order("ann", 1, items=None), "", ""),
    ("orders", order("ann", 1, items=[{"sku": "x"}] * 3), "items", "has more than 2 entries"),
    ("interactions", visit("ann", 1, needs={"a": 1}), "", ""),
    ("interactions", visit("ann", 1, needs={"a": 1, "b": 2}), "needs", "has more than 1 entries"),
    ("feedback", answer("ann", 1, attributes={}), "", ""),
    ("feedback", answer("ann", 1, attributes={"a": 1}), "attributes", "has more than 0 entries"),
    ("orders", order("a" * 5, 1, order_id="o" * 5, event_id="e" * 5), "", ""),
    ("orders", order("a" * 6, 1), "customer_id", "has more than 5 characters"),
    ("orders", order("ann", 1, order_id="o" * 6), "order_id", "has more than 5 characters"),
    ("feedback", answer("ann", 1, event_id="é" * 6), "event_id", "has more than 5 characters"),
    ("interactions", visit("ann", 1, event_id="é" * 5), "", ""),
]


@pytest.mark.parametrize(("role", "event", "field", "says"), LIMITED)
def test_a_shop_may_set_tighter_limits(
    role: Role, event: dict[str, Any], field: str, says: str
) -> None:
    decoded = Decoder(role, STRICT, LIMIT).decode([text(event)], NOW_MS)
    wanted = [(field, f"{field}: {says}")] if field else []
    assert [(one.field, one.reason) for one in decoded.rejections] == wanted
    assert len(decoded.index) == (not field)
    assert decode(role, text(event)).rejections == []


@pytest.mark.parametrize("vocabulary", [WORDS, STRICT])
def test_too_many_entries_are_named_before_all_that_is_wrong_with_them(
    vocabulary: Vocabulary,
) -> None:
    wrong: list[tuple[Role, dict[str, Any], str]] = [
        ("orders", order("ann", 1, items=[{}] * 1_001), "items"),
        ("interactions", visit("ann", 1, needs={str(i): "x" for i in range(101)}), "needs"),
        (
            "feedback",
            answer("ann", 1, attributes=dict.fromkeys(map(str, range(101)))),
            "attributes",
        ),
    ]
    for role, event, field in wrong:
        (one,) = Decoder(role, vocabulary, 10**6).decode([text(event)], NOW_MS).rejections
        assert one.field == field
        assert one.reason.startswith(f"{field}: has more than ")


def test_limits_above_the_schemas_are_refused() -> None:
    for name, most in (("max_items", 1_000), ("max_needs", 100), ("max_id_length", 128)):
        assert getattr(Vocabulary.model_validate({name: most}), name) == most
        with pytest.raises(ValueError, match=name):
            Vocabulary.model_validate({name: most + 1})


def test_a_chunk_too_long_to_be_parsed_at_once_is_parsed_in_parts() -> None:
    """Kafka's compression lets a fetch of a megabyte become a chunk of hundreds."""
    event = text(order("ann", 1) | {"more": "x" * 200_000})
    decoder = Decoder("orders", WORDS, 262_144)
    decoded = decoder.decode([event] * 30 + [b"no"] + [event] * 30, NOW_MS)
    assert len(decoded.index) == 60
    assert [one.index for one in decoded.rejections] == [30]
