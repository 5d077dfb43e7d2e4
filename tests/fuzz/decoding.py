"""From fuzz bytes to a chunk of records, and what must hold of its decoding, whatever they are."""

import json
import re
import time
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from pydantic_core._pydantic_core import list_all_errors

from tests.fuzz.reading import Source
from tests.unit.streams.helpers import answer, order, visit
from valuetide.schemas.events import MAX_ENTRIES, MAX_ITEMS, Item
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.decode import DAY_MS, Decoded, Decoder, Role, is_plain

ROLES: tuple[Role, ...] = get_args(Role)
NOW_MS = 1_800_000_000_000
MOST_BYTES = 8_192
MOST_RECORDS = 7
MOST_SECONDS = 2.0
MOST_REASON = 450
MARK = "Zq7SecretZq7"
"""Stands for what is personal: it may be anywhere in an event and in no reason."""

VOCABULARIES = (
    Vocabulary(),
    Vocabulary.model_validate(
        {"minor_digits": 4, "max_amount": 1e9, "exchange_rates": {"USD": "0.5", "JPY": "1000000"}}
        | {"max_items": 2, "max_needs": 1, "max_attributes": 1, "max_id_length": 4}
    ),
)
DECODERS = {(r, i): Decoder(r, v, MOST_BYTES) for r in ROLES for i, v in enumerate(VOCABULARIES)}
FULL: dict[Role, dict[str, Any]] = {
    "orders": order("ann", 1, cost=1.5, channel="web", source_code="x")
    | {"items": [{"sku": "s", "category": None, "quantity": 2, "unit_price": 5.0}] * 2},
    "interactions": visit("ann", 2, campaign_id="c", arm="control", category="k")
    | {"needs": {"price": 0.5, MARK: 1}},
    "feedback": answer("ann", 3, attributes={"speed": 4, MARK: 5}, subject="us", source="survey")
    | {"text": MARK},
}
PLAIN: dict[Role, tuple[dict[str, Any], ...]] = {
    "orders": (order("bob", 4), order("bob", 5, kind="returned", currency="USD")),
    "interactions": (visit("bob", 6), visit("bob", 7, kind="search")),
    "feedback": (answer("bob", 8), answer("bob", 9, kind="complaint", score=1)),
}
VALID = {role: [json.dumps(one).encode() for one in (FULL[role], *PLAIN[role])] for role in ROLES}
"""Sound events of each role, one with all its fields first."""

MANY = '{"sku":"s"},' * MAX_ITEMS + '{"sku":"s"}'
MAP = ",".join(f'"{i}":1' for i in range(MAX_ENTRIES + 1))
SNIPPETS = [text.encode("utf-8", "surrogatepass") for text in (
    "null", "true", "0", "-1", "1e308", "1e400", "-0.0", "NaN", "Infinity", "-Infinity", "0.005",
    "9" * 40, "9" * 4_400, "9007199254740993", "1800086400", "1800086400.001", "253402300800",
    '""', '"\\u0000"', '"\\ud800"', '"\ud800"', f'"{MARK}"', f'"{"x" * 129}"', f'"{"ü" * 128}"',
    '"1970-01-01T00:00:00Z"', '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59.999999-23:59"',
    '"2024-02-30T00:00:00Z"', '"2024-01-01T00:00:00"', '"EUR"', '"USD"', '"XXX"', '"placed"',
    "[]", "{}", "[1,5]", "[5,1]", "[1,5,9]", f"[{MANY}]", f"{{{MAP}}}", f'{{"{MARK}":"x"}}',
    "[" * 150 + "]" * 150, "[" * 1_000 + "]" * 1_000, '{"a":' * 300 + "1" + "}" * 300,
    f'[{{"sku":"s","{MARK}":[{{}}]}}]', '[{"sku":"s","quantity":-1}]', "[{}]",
)]  # fmt: skip
"""Values to put into a field."""

SPLICES = (
    b",", b"{", b"}", b"[", b"]", b'"', b":", b"\\", b"},{", b"],[", b'","', b"}]}", b'":{"', b"[{",
    b"\r", b"\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b" ", b"//", b'"x":[', b'"x":{', b'"x":"',
    b"0", b"e", b"-", b".", MARK.encode(),
)  # fmt: skip
"""What breaks JSON, or glues two records together."""

LABELS = {role: {"value", *Decoder(role, VOCABULARIES[0], 256)._fields} for role in ROLES}
NAMES = set().union(*LABELS.values()) | {"sku", "quantity", "unit_price"}
TEXTS = " ".join(
    f"{error['message_template_python']} {error['example_message_python']}"
    for error in list_all_errors()
)
OURS = """Invalid JSON entries characters bytes taken object before vocabulary max_amount lowest
    highest scale placed returned cancelled complaint treatment control survey review forum
    social contact rating number value"""
WORDS = NAMES | set(re.findall(r"\w{4,}", TEXTS + OURS))
"""What a reason may share with the event: names of fields, and words of pydantic's and ours."""


def chunk_of(data: bytes) -> tuple[Role, int, list[bytes | None]]:
    """Give role, number of the vocabulary and records that fuzz bytes stand for."""
    source = Source(data)
    role = ROLES[source.byte() % len(ROLES)]
    words = source.byte() % len(VOCABULARIES)
    values: list[bytes | None] = []
    while source.left and len(values) < MOST_RECORDS:
        values += _records(source, role)
    return role, words, values


def _records(source: Source, role: Role) -> list[bytes | None]:
    """Give the next record, or the two that one is cut into."""
    valid = VALID[role]
    what = source.byte() % 8
    value = valid[source.byte() % len(valid)]
    if what == 0:
        return [None]
    if what == 1:
        value = source.take(source.byte())
    elif what in (2, 3):
        value = _with_a_field(source, role, value)
    elif what == 4:  # bytes are taken out and put in
        for _ in range(1 + source.byte() % 4):
            at = source.word() % (len(value) + 1)
            value = value[:at] + source.snippet(SPLICES) + value[at + source.byte() % 8 :]
    elif what == 5:  # a record too many, or half of one, beside others
        value = source.snippet(SPLICES).join([value, source.pick(valid)])
        at = source.word() % (len(value) + 1)
        return [value[:at], value[at:].lstrip(b",") if source.byte() % 2 else value[at:]]
    elif what == 6:
        value = source.take(1) * (source.word() % (MOST_BYTES + 10))
    return [value]


def _with_a_field(source: Source, role: Role, value: bytes) -> bytes:
    """Put something else into a field, or add one."""
    event = json.loads(value)
    name = source.pick(sorted({*FULL[role], MARK}))
    event[name] = 0
    text = json.dumps(event).encode()
    head, found, tail = text.partition(f'"{name}": 0'.encode())
    return head + found[:-1] + source.snippet(SNIPPETS) + tail


def check(data: bytes) -> tuple[int, int]:
    """Decode the chunk and check everything; gives how many were accepted and rejected."""
    role, words, values = chunk_of(data)
    return check_chunk(role, words, values)


def check_chunk(role: Role, words: int, values: Sequence[bytes | None]) -> tuple[int, int]:
    decoder = DECODERS[role, words]
    started = time.process_time()
    decoded = decoder.decode(values, NOW_MS)
    took = time.process_time() - started
    assert took < MOST_SECONDS, f"{took} s"
    accepted = decoded.index.tolist()
    rejected = {one.index: one for one in decoded.rejections}
    assert accepted == sorted(set(accepted))
    assert len(rejected) == len(decoded.rejections)
    assert sorted([*accepted, *rejected]) == list(range(len(values)))
    _check_columns(role, decoder, decoded)
    for place, rejection in rejected.items():
        _check_reason(role, rejection.field, rejection.reason, values[place])
    # What becomes of a record never depends on its neighbours.
    sound = [value for value in values if value is not None and len(value) <= MOST_BYTES]
    for value in sound:
        check_both_decoders(decoder, value)
    size = sum(map(len, sound))
    if values and size % 3 == 0:
        _check_alone(decoder, values, size % len(values), decoded)
    return len(accepted), len(rejected)


def check_both_decoders(decoder: Decoder, value: bytes) -> bool:
    """What the quick decoder takes the slow one takes as well, and for the same event."""
    if not is_plain(value):
        return False
    try:
        quick = decoder._quick(value)
    except msgspec.MsgspecError:
        return False
    slow = decoder._slowly(value)
    if slow is None:
        # A number that is ignored may have any length.
        assert "number out of range" in decoder._explain(0, value).reason, value
        return True
    for name in quick.__struct_fields__:
        one, other = getattr(quick, name), getattr(slow, name)
        if name == "occurred_at":
            at = [t if isinstance(t, float) else t.timestamp() for t in (one, other)]
            assert abs(at[0] - at[1]) < 0.001, value
        elif name == "items" and one is not None:
            given = [msgspec.to_builtins(item) for item in one]
            blank = dict.fromkeys(Item.__annotations__)
            assert given == [blank | item for item in other], value
        else:
            assert one == other, value
    return True


def _check_alone(
    decoder: Decoder, values: Sequence[bytes | None], place: int, decoded: Decoded
) -> None:
    alone = decoder.decode([values[place]], NOW_MS)
    among = decoded.take(decoded.index == place)
    for name in ("customer", "event", "at", "kind", "order", "amount", "cost"):
        assert list(getattr(alone, name)) == list(getattr(among, name))
    reasons = [one.reason for one in decoded.rejections if one.index == place]
    assert [one.reason for one in alone.rejections] == reasons


def _check_columns(role: Role, decoder: Decoder, decoded: Decoded) -> None:
    n = len(decoded.index)
    words = decoder._vocabulary
    assert len(decoded.customer) == len(decoded.event) == len(decoded.at) == n
    assert all(1 <= len(one) <= words.max_id_length for one in decoded.customer)
    assert ((decoded.at >= 0) & (decoded.at <= NOW_MS + DAY_MS)).all()
    assert (decoded.event < 2**48).all()
    assert len(decoded.kind) == len(decoded.order) == len(decoded.amount)
    assert len(decoded.amount) == (n if role == "orders" else 0)
    assert len(decoded.cost) == (0 if role == "feedback" else n)
    most = words.max_amount * 10**words.minor_digits
    for money in (decoded.amount, decoded.cost):
        assert ((money >= 0) & (money <= most)).all()
    assert (decoded.order < 2**48).all()
    assert (decoded.kind <= 2).all()


def _check_reason(role: Role, field: str, reason: str, value: bytes | None) -> None:
    assert field in LABELS[role]
    assert len(reason) < MOST_REASON
    assert re.split("[:.]", reason)[0] in LABELS[role], reason
    assert "\n" not in reason
    assert MARK not in reason
    written = (value or b"").decode(errors="replace")
    for word in re.findall(r"[^\W\d]\w{4,}", reason):
        assert word in WORDS or word not in written, (word, reason, value)
