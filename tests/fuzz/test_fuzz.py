"""Whatever bytes arrive: no crash, no hang, each record accepted or rejected, state bounded.

Here a few thousand cases; ``make fuzz`` makes a million.
"""

import importlib.util
import json
import random
import secrets
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import decoding, folding
from tests.fuzz.run import ROOT
from valuetide.scoring.packed import HEADER_BYTES, MOST_BYTES, RECORD_BYTES
from valuetide.streams.decode import Decoder, Role

SEED = secrets.randbelow(2**31)
CHECKS = {"decoding": decoding.check, "folding": folding.check}


@pytest.mark.parametrize(("target", "cases"), [("decoding", 2_500), ("folding", 500)])
def test_random_bytes(target: str, cases: int) -> None:
    chance = random.Random(SEED)
    for _ in range(cases):
        data = chance.randbytes(chance.choice((4, 16, 60, 200, 800)))
        try:
            CHECKS[target](data)
        except Exception as error:
            raise AssertionError(f"seed {SEED}: {data!r}") from error


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="no atheris here")
@pytest.mark.parametrize("target", CHECKS)
def test_guided_by_coverage(target: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", "--target", target, "--cases", "400"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["cases"], facts["by"]) == (400, "atheris")
    assert facts["accepted"] + facts["rejected"] > 0


# -- structured -----------------------------------------------------------------------------------

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=140)
    | st.sampled_from(["placed", "EUR", "csat", "visit", "2024-01-01T00:00:00Z", 1_700_000_000])
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=12,
)


@st.composite
def events(draw: st.DrawFn, role: Role) -> bytes:
    """An event of a role with some of its fields replaced, dropped or added."""
    event: dict[str, Any] = dict(
        draw(st.sampled_from([decoding.FULL[role], *decoding.PLAIN[role]]))
    )
    for name in draw(st.lists(st.sampled_from([*decoding.FULL[role], "more"]), max_size=3)):
        if draw(st.booleans()):
            event[name] = draw(anything)
        else:
            event.pop(name, None)
    return json.dumps(event, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def chunks(draw: st.DrawFn) -> tuple[Role, int, list[bytes | None]]:
    role = draw(st.sampled_from(decoding.ROLES))
    record = events(role) | st.none() | st.binary(max_size=20)
    words = draw(st.integers(0, len(decoding.VOCABULARIES) - 1))
    return role, words, draw(st.lists(record, max_size=8))


@settings(deadline=None, max_examples=400)
@given(chunks())
def test_events_with_other_fields(chunk: tuple[Role, int, list[bytes | None]]) -> None:
    decoding.check_chunk(*chunk)


# -- neighbours -----------------------------------------------------------------------------------


def glued(opening: bytes, closing: bytes, parts: int) -> list[bytes]:
    """Records that are no JSON by themselves, yet joined by commas as many valid events."""
    first, *others = (
        json.dumps(decoding.PLAIN["orders"][0] | {"event_id": f"e{i}", "customer_id": f"c{i}"})
        for i in range(parts)
    )
    return [
        first.encode()[:-1] + b', "x": ' + opening,
        closing + b"}",
        b",".join(other.encode() for other in others),
    ]


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        (b"[1", b"2]"),
        (b"[{}", b"{}]"),
        (b'{"a": 1', b'"b": 2}'),
        (b'"', b'"'),
        (b'"}', b'{"'),
        (b'["c1", "e1"', b'"c1", "e1"]'),
    ],
)
def test_records_cannot_pass_off_something_as_their_neighbours(
    opening: bytes, closing: bytes
) -> None:
    records = glued(opening, closing, 3)
    together = json.loads(b"[" + b",".join(records) + b"]")
    assert len(together) == len(records)
    assert [event["event_id"] for event in together] == ["e0", "e1", "e2"]
    good = decoding.VALID["orders"][1]
    decoder = Decoder("orders", decoding.VOCABULARIES[0], 10_000)
    decoded = decoder.decode([good, *records, good], decoding.NOW_MS)
    assert decoded.index.tolist() == [0, 4]
    assert sorted(one.index for one in decoded.rejections) == [1, 2, 3]
    assert {one.field for one in decoded.rejections} == {"value"}


def test_plain_events_are_decoded_quickly_and_unusual_ones_all_the_same() -> None:
    for role, events in decoding.VALID.items():
        decoder = Decoder(role, decoding.VOCABULARIES[0], 100_000)
        assert [decoding.check_both_decoders(decoder, one) for one in events].count(True) > 1
        spaced = json.loads(events[1]) | {"occurred_at": "1700000000"}
        unusual = json.dumps(spaced).encode()
        assert not decoding.check_both_decoders(decoder, unusual)
        assert decoder.decode([unusual], decoding.NOW_MS).index.tolist() == [0]


# -- bounds ---------------------------------------------------------------------------------------


def test_the_bound_of_a_state_is_header_settled_signals_entries_and_ring() -> None:
    assert HEADER_BYTES + 72 == RECORD_BYTES == 104
    assert MOST_BYTES == 32 + 72 + 26 + 16 * 37 + 16 * 6 == 818


def test_the_bound_of_a_state_is_reached_and_never_passed() -> None:
    import numpy as np

    from valuetide.scoring.customers import Customers
    from valuetide.scoring.fold import InteractionBatch, OrderBatch, fold

    customers = Customers()
    row = customers.add(["ann"], [None])
    for start in range(0, 400, 40):
        numbers = np.arange(start, start + 40)
        for kind in (0, 1):
            batch = OrderBatch(
                row=np.repeat(row, 40),
                event=(2 * numbers + kind).astype(np.uint64),
                kind=np.full(40, kind, np.uint8),
                order=numbers.astype(np.uint64),
                at=numbers * 1_000,
                amount=np.full(40, 2**47 - 1),
                cost=np.full(40, 2**47 - 1),
            )
            fold(customers, batch)
            assert len(customers.pack(row)[0]) <= MOST_BYTES
    one, tomorrow = np.zeros(1, np.uint8), np.full(1, 86_400_000)
    fold(customers, InteractionBatch(row, one.astype(np.uint64), tomorrow, tomorrow, one))
    assert len(customers.pack(row)[0]) == MOST_BYTES


@pytest.mark.parametrize("what", ["[],", "{},", "1,", '"",'])
def test_what_is_made_of_a_hostile_value_is_bounded_in_time(what: str) -> None:
    """A value full of brackets cost a second each, and a chunk of them 12."""
    import time

    decoder = Decoder("orders", decoding.VOCABULARIES[0], 262_144)
    for name in ("x", "items"):
        value = f'{{"{name}":[{what * (250_000 // len(what))}{what[:-1]}]}}'.encode()
        started = time.process_time()
        decoded = decoder.decode([value] * 2, decoding.NOW_MS)
        assert len(decoded.rejections) == 2
        assert time.process_time() - started < 2.0
