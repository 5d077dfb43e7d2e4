"""What is no event becomes one dead letter, and nothing else happens."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.pipeline import (
    Facts,
    Found,
    Pipeline,
    Raw,
    check_state,
    invoke,
    metric,
)
from tests.support.traffic import traffic
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.decode import Role

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "bad"
WHOLE = "value"
"""What a reason names where no field is to blame, but the value as a whole."""

ALMOST_A_MEGABYTE = 1_048_400
"""The largest value that a topic takes with its default limit, headers of Kafka's aside."""

HEADER = (("trace", b"abc"),)


class Bad(NamedTuple):
    """A value that is no event, and the field that the reason must name."""

    role: Role
    value: bytes | None
    field: str
    key: bytes | None = b"ann"


def order(**fields: Any) -> dict[str, Any]:
    event = {
        "event_id": "bad",
        "customer_id": "ann",
        "occurred_at": "2026-03-14T09:26:53Z",
        "order_id": "o",
        "kind": "placed",
        "amount": 10,
        "currency": "EUR",
    }
    return event | fields


def bad_order(field: str, **fields: Any) -> Bad:
    return Bad("orders", json.dumps(order(**fields)).encode(), field)


def without(field: str) -> Bad:
    event = order()
    del event[field]
    return Bad("orders", json.dumps(event).encode(), field)


def from_examples() -> list[Bad]:
    bad = []
    for file in sorted(EXAMPLES.glob("*.json")):
        case = json.loads(file.read_text("utf-8"))
        field = case["reason_names"]
        value = case["value"].encode()
        bad.append(Bad(case["topic"], value, WHOLE if field in ("JSON", "object") else field))
    return bad


def deep(opening: str, closing: str) -> str:
    return opening * 1_000 + "1" + closing * 1_000


def others() -> list[Bad]:
    now = time.time()
    sound = json.dumps(order())
    interaction = {"event_id": "bad", "customer_id": "ann", "occurred_at": now, "kind": "visit"}
    rating = interaction | {"kind": "rating", "score": 5, "scale": [1, 5]}
    return [
        *(without(name) for name in order()),
        *(bad_order(name, **{name: []}) for name in order()),
        *(bad_order(name, **{name: ""}) for name in ("event_id", "customer_id", "order_id")),
        *(bad_order(name, **{name: "ü" * 129}) for name in ("event_id", "customer_id", "order_id")),
        bad_order("amount", amount=-0.01),
        bad_order("amount", amount=10_000_000.01),
        bad_order("amount", amount=1e300),
        bad_order("amount", amount=float("nan")),
        bad_order("amount", amount=float("inf")),
        bad_order("amount", amount=float("-inf")),
        bad_order("cost", cost=10_000_001),
        bad_order("kind", kind="gifted"),
        bad_order("currency", currency="XXX"),
        bad_order("occurred_at", occurred_at="1969-12-31T23:59:59.999Z"),
        bad_order("occurred_at", occurred_at=-0.001),
        bad_order("occurred_at", occurred_at=now + 86_400 + 3_600),
        bad_order("occurred_at", occurred_at="9999-12-31T23:59:59Z"),
        bad_order("occurred_at", occurred_at="0001-01-01T00:00:00Z"),
        bad_order("occurred_at", occurred_at=1e308),
        Bad("interactions", json.dumps(interaction | {"kind": "dance"}).encode(), "kind"),
        Bad("interactions", json.dumps(interaction | {"cost": 1e8}).encode(), "cost"),
        Bad("feedback", json.dumps(rating | {"score": 6}).encode(), "score"),
        Bad("feedback", json.dumps(rating | {"scale": [5, 1]}).encode(), "scale"),
        Bad("orders", deep("[", "]").encode(), WHOLE),
        Bad("orders", deep('{"a":', "}").encode(), WHOLE),
        Bad("orders", (sound[:-1] + f', "x": {deep("[", "]")}}}').encode(), WHOLE),
        Bad("orders", b"x" * ALMOST_A_MEGABYTE, WHOLE),
        bad_order(WHOLE, event_id="x" * (ALMOST_A_MEGABYTE - 1_000)),
        bad_order("event_id", event_id="x" * 200_000),
        Bad("orders", None, WHOLE),
        Bad("orders", None, WHOLE, None),
        Bad("interactions", None, WHOLE, b""),
        Bad("orders", b"", WHOLE, None),
        Bad("orders", b"not json", WHOLE, None),
        Bad("orders", b"not json", WHOLE, b"\xff\xfe\x00"),
        Bad("orders", b"\xff\xfe", WHOLE),
        Bad("orders", sound.encode("utf-16"), WHOLE),
        # Records that are valid only beside their neighbours: a chunk is validated as one array.
        Bad("orders", b'{"a": 1}, {"a": 2}', WHOLE),
        Bad("orders", f"{sound}, {sound}".encode(), WHOLE),
        Bad("orders", f"{sound}], [{sound}".encode(), WHOLE),
        Bad("feedback", b'[{"a": [1', WHOLE),
        Bad("feedback", b"2]}]", WHOLE),
    ]


ALL_BAD = [*from_examples(), *others()]


def name_of(reason: str) -> str:
    return reason.partition(":")[0].partition(".")[0]


def mixed(pipeline: Pipeline, bad: list[Bad]) -> tuple[list[Facts], dict[str, Bad]]:
    """Send good events of others with the bad ones among them, on one and the same partition.

    Gives the good ones, and the bad ones by the place where each lies.
    """
    partition = pipeline.home("ann")
    good = [f for f in traffic(4, 400) if pipeline.home(f[1]["customer_id"]) == partition]
    messages = [pipeline.message(facts) for facts in good]
    step = len(messages) // len(bad)
    assert step >= 1
    for i, one in enumerate(bad):
        at = i * (step + 1)
        messages.insert(at, Raw(one.role, partition, one.key, one.value, HEADER))
    places: dict[str, Bad] = {}
    offsets = dict.fromkeys(("orders", "interactions", "feedback"), 0)
    rest = list(bad)
    for message in messages:
        if message.headers:
            topic = getattr(pipeline.settings.topics, message.role)
            places[f"{topic}/{partition}/{offsets[message.role]}"] = rest.pop(0)
        offsets[message.role] += 1
    pipeline.produce(messages)
    return good, places


def source(letter: Found) -> str:
    headers = letter.headers
    return "/".join(headers[f"source_{name}"] for name in ("topic", "partition", "offset"))


def bad_of(letter: Found, bad: list[Bad]) -> Bad:
    return next(one for one in bad if (one.key, one.value) == (letter.key, letter.value))


def test_every_bad_input_is_one_dead_letter_and_no_good_one_is_lost(pipeline: Pipeline) -> None:
    started = datetime.now().astimezone()
    good, places = mixed(pipeline, ALL_BAD)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        counted = metric(worker, "valuetide_dead_letters_total")
        of_amount = metric(worker, "valuetide_dead_letters_total", reason="amount")
        recoveries = metric(worker, "valuetide_recoveries_total")
    check_state(pipeline, good)
    letters = {source(letter): letter for letter in pipeline.dead_letters()}
    assert len(letters) == len(pipeline.dead_letters()) == len(ALL_BAD)
    assert letters.keys() == places.keys()
    wrong = {}
    for place, bad in places.items():
        letter = letters[place]
        assert (letter.key, letter.value) == (bad.key, bad.value), place
        assert "\n" not in letter.headers["reason"]
        if name_of(letter.headers["reason"]) != bad.field:
            wrong[place] = (letter.headers["reason"], bad.field)
        at = datetime.fromisoformat(letter.headers["rejected_at"])
        assert started <= at <= datetime.now().astimezone()
    assert not wrong
    assert pipeline.count("dead_letter") == len(ALL_BAD)
    assert pipeline.count("folded") == len(good)
    assert counted == len(ALL_BAD)
    assert of_amount == sum(bad.field == "amount" for bad in ALL_BAD)
    assert recoveries == 0


def test_dlq_lists_and_shows_what_was_rejected_and_sends_it_again(pipeline: Pipeline) -> None:
    """What is sent again unmended comes back, even a message without key and value."""
    bad = [
        bad_order("currency", currency="XXX"),
        Bad("orders", b"\xff\xfe", WHOLE, None),
        Bad("orders", None, WHOLE),
        Bad("orders", None, WHOLE, None),
        Bad("orders", b"x" * ALMOST_A_MEGABYTE, WHOLE),
        bad_order("items", items=[{"sku": 1}]),
    ]
    good, places = mixed(pipeline, bad)
    env = pipeline.environment
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        again = invoke(env, "dlq", "resubmit", "--all", "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == {"resubmitted": len(bad)}
        pipeline.finish(worker, more={("orders", pipeline.home("ann")): len(bad)})
    check_state(pipeline, good)
    whole = sorted((b.key or b"", b.value or b"") for b in bad)
    letters = pipeline.dead_letters()
    for half in (letters[: len(bad)], letters[len(bad) :]):
        assert sorted((a.key or b"", a.value or b"") for a in half) == whole
    places |= {source(letter): bad_of(letter, bad) for letter in letters[len(bad) :]}
    listed = invoke(env, "dlq", "list", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    entries = {
        f"{e['source_topic']}/{e['source_partition']}/{e['source_offset']}": e
        for e in json.loads(listed.stdout)
    }
    assert entries.keys() == places.keys()
    for place, one in places.items():
        entry = entries[place]
        assert (entry["bytes"], entry["value"]) == (len(one.value or b""), None)
        assert name_of(entry["reason"]) == one.field

    text = invoke(env, "dlq", "list").stdout
    assert text.splitlines()[-1].startswith("12 dead letters: value 8, ")
    assert all(place in text for place in places)
    few = invoke(env, "dlq", "list", "--limit", "1", "--field", "value").stdout
    assert few.splitlines()[-2:] == ["... and 7 more, see --limit", "8 dead letters: value 8"]

    place = next(p for p, one in places.items() if one.field == "currency")
    shown = invoke(env, "dlq", "show", entries[place]["place"], "--json")
    entry = json.loads(shown.stdout)
    assert entry["reason"] == "currency: is not in the vocabulary"
    assert json.loads(entry["value"]) == order(currency="XXX")
    assert entry["key"] == "ann"
    large = next(e["place"] for e in entries.values() if e["bytes"] == ALMOST_A_MEGABYTE)
    assert len(invoke(env, "dlq", "show", large).stdout) < 4_000

    unknown = invoke(env, "dlq", "show", "0:9999")
    assert unknown.returncode == 1
    assert unknown.stderr == "Error: no dead letter 0:9999; see `valuetide dlq list`\n"


def test_a_currency_that_is_added_later_counts_its_orders_once(pipeline: Pipeline) -> None:
    """Sent again twice, they count once; what is wrong in another way stays where it is."""
    foreign: list[Facts] = [
        ("orders", order(event_id=f"usd-{i}", order_id=f"o{i}", customer_id=who, currency="USD"))
        for i, who in enumerate(("ann", "ann", "bea", "cho"))
    ]
    good = traffic(5, 20)
    pipeline.send([*good, *foreign])
    partition = pipeline.home("ann")
    pipeline.produce([Raw("orders", partition, b"ann", b"not json")])
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    check_state(pipeline, good)
    assert pipeline.count("dead_letter") == 5

    words = Vocabulary.model_validate({"exchange_rates": {"USD": "0.9"}})
    mended = pipeline.with_settings(vocabulary=words)
    with mended.worker() as worker:
        one = invoke(mended.environment, "dlq", "list", "--field", "currency", "--json")
        place = next(e["place"] for e in json.loads(one.stdout) if e["key"] == "bea")
        first = invoke(mended.environment, "dlq", "resubmit", place)
        assert (first.returncode, first.stdout) == (0, "1 sent again\n")
        for _ in range(2):
            sent = invoke(mended.environment, "dlq", "resubmit", "--all", "--field", "currency")
            assert (sent.returncode, sent.stdout) == (0, "4 sent again\n"), sent.stderr
        more = {("orders", p): 0 for p in range(4)}
        for _, event in foreign:
            more["orders", pipeline.home(event["customer_id"])] += 2
        more["orders", pipeline.home("bea")] += 1
        mended.finish(worker, more=more)
    state = check_state(mended, [*good, *foreign])
    assert (state["ann"]["orders"], state["ann"]["revenue"]) == (2, 18.0)
    assert mended.count("duplicate") == 5
    assert mended.count("dead_letter") == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give either places or --all"),
        (("0:1", "--all"), "give either places or --all"),
        (("0:1", "--field", "value"), "--field: only with --all"),
    ],
)
def test_resubmit_asks_for_what_it_needs(arguments: tuple[str, ...], says: str) -> None:
    from click.testing import CliRunner

    from valuetide.streams.cli import cli as command

    result = CliRunner().invoke(command, ["dlq", "resubmit", *arguments])
    assert result.exit_code == 2
    assert says in result.output
