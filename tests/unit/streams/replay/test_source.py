import json
from pathlib import Path

import pytest

from valuetide.streams.replay.errors import ReplayUsageError
from valuetide.streams.replay.event import SourceEvent
from valuetide.streams.replay.files import fingerprint
from valuetide.streams.replay.mapping import MappingSpec
from valuetide.streams.replay.rows import TextForm
from valuetide.streams.replay.source import Plan, read_events, shift_all, shift_to
from valuetide.streams.replay.tally import Tally

VISITS = Plan("interactions", mapping=MappingSpec({}, {"kind": "visit"}))
LINES = "customer_id,occurred_at\nlate,300\n,0\nsoon,100\nthen,200\nodd,never\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path := tmp_path / "a.csv").write_text(LINES)
    return path


def read(
    file: Path, plan: Plan, limit: int | None = None, tally: Tally | None = None
) -> list[SourceEvent]:
    return list(read_events(file, plan, fingerprint(file), tally or Tally(), limit=limit))


def customers(events: list[SourceEvent]) -> list[str]:
    return [event.customer_id for event in events]


def test_events_come_by_time_or_as_they_stand(file: Path) -> None:
    assert customers(read(file, VISITS)) == ["soon", "then", "late"]
    as_they_stand = Plan("interactions", mapping=VISITS.mapping, order="file")
    assert customers(read(file, as_they_stand)) == ["late", "soon", "then"]


def test_a_limit_takes_the_first_events_not_the_first_rows(file: Path) -> None:
    assert customers(read(file, VISITS, limit=2)) == ["soon", "then"]


def test_invalid_rows_are_counted_by_reason_with_their_first_line(file: Path) -> None:
    tally = Tally()
    read(file, VISITS, tally=tally)
    assert tally.rows == 5
    assert {reason: (s.count, s.first_line) for reason, s in tally.skipped.items()} == {
        "customer_id: is missing": (1, 3),
        "occurred_at: is not a time (see --time-format)": (1, 6),
    }


def test_ids_are_the_same_each_time_and_others_in_another_file(file: Path) -> None:
    first = read(file, VISITS)
    assert read(file, VISITS) == first
    ids = {json.loads(event.value)["event_id"] for event in first}
    assert len(ids) == 3
    file.write_text(LINES + "more,400\n")
    assert not ids & {json.loads(event.value)["event_id"] for event in read(file, VISITS)}


def test_shifted_to_now_the_last_event_is_now_and_distances_stay(file: Path) -> None:
    events = read(file, VISITS)
    moved = list(shift_all(events, shift_to(events, 1_700_000_000.4)))
    assert [event.occurred_at for event in moved] == [1_699_999_800, 1_699_999_900, 1_700_000_000]
    assert json.loads(moved[-1].value)["occurred_at"] == 1_700_000_000
    assert shift_to([], 5.0) == 0.0


def test_a_currency_stands_above_a_column_of_that_name(tmp_path: Path) -> None:
    (file := tmp_path / "a.csv").write_text("customer_id,occurred_at,amount,currency\nc,1,2,USD\n")
    mapping = MappingSpec({"order_id": "@id"}, {"kind": "placed"})
    assert json.loads(read(file, Plan(mapping=mapping))[0].value)["currency"] == "USD"
    euro = Plan(mapping=mapping, currency="EUR")
    assert json.loads(read(file, euro)[0].value)["currency"] == "EUR"
    assert euro.known_currency == "EUR"


@pytest.mark.parametrize(
    "plan",
    [
        Plan(preset="cdnow", mapping=MappingSpec({"amount": "x"})),
        Plan(preset="cdnow", form=TextForm(delimiter=";")),
        Plan("feedback", preset="cdnow"),
        Plan("interactions", currency="EUR"),
        Plan(currency="EUR", mapping=MappingSpec({"currency": "x"})),
    ],
)
def test_what_does_not_go_together_is_refused(plan: Plan) -> None:
    with pytest.raises(ReplayUsageError):
        plan.check()


def test_a_plan_has_a_digest_of_its_own() -> None:
    plans = [Plan(), VISITS, Plan(order="file"), Plan(currency="EUR"), Plan(preset="cdnow")]
    assert len({plan.digest() for plan in plans}) == len(plans)
    assert Plan().digest() == Plan().digest()
