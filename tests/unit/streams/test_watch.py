"""The watch over all shards: what it closes and tells, and that faults change nothing of it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from tests.support.fakes import FakeSender, Wall, shard_settings
from valuetide.schemas.alert import Alert
from valuetide.schemas.errors import FaultError
from valuetide.schemas.topics import INPUTS
from valuetide.scoring.arrays import DAY_MS
from valuetide.scoring.series import HOUR_MS, Labels, OpenCells, contact_sums, order_sums
from valuetide.streams.clock import Clock
from valuetide.streams.metrics import Metrics
from valuetide.streams.publish import BrokerUnavailableError
from valuetide.streams.settings import Settings
from valuetide.streams.store import (
    AlertStep,
    Commit,
    CommitRefusedError,
    StoreUnavailableError,
    WatchCommit,
)
from valuetide.streams.store.memory import MemoryStore
from valuetide.streams.trend_settings import AlertSettings, SeriesSettings
from valuetide.streams.watch import MOST_BUCKETS, TrendWatch, first_bucket, sums_of

FIRST_DAY = 19_000
CHANNELS = ("web", "app", "store")
DAILY = (60, 30, 20)
SHIFT = 60


def settings(**series: Any) -> Settings:
    given = {"metrics": ("revenue", "orders"), "idle_seconds": 0.001, "lateness_seconds": 0.0}
    return shard_settings(
        partitions=2, series=SeriesSettings(**(given | series)), alerts=AlertSettings()
    )


class FaultyStore(MemoryStore):
    """The store in memory, whose commit of the watch fails when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.before_commit: BaseException | None = None
        self.after_commit: BaseException | None = None

    async def commit_watch(self, commit: WatchCommit) -> None:
        error, self.before_commit = self.before_commit, None
        if error is not None:
            raise error
        await super().commit_watch(commit)
        error, self.after_commit = self.after_commit, None
        if error is not None:
            raise error


@dataclass
class Shop:
    """Two shards' cells, day by day, in a store, and watches over them."""

    settings: Settings = field(default_factory=settings)
    seed: int = 3
    store: FaultyStore = field(default_factory=FaultyStore)
    sender: FakeSender = field(default_factory=lambda: FakeSender([]))
    wall: Wall = field(default_factory=Wall)
    day: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        unit = self.settings.series.bucket
        self.cells = [OpenCells(unit, 100) for _ in range(2)]
        self.sequence = [0, 0]

    def watch(self, worker: str = "worker") -> TrendWatch:
        clock = Clock("event", 3_600.0, self.wall)
        return TrendWatch(
            self.settings, self.store, self.sender, Metrics(), clock, worker, {0: None}
        )

    async def sell(
        self, days: int = 1, *, silent: slice | None = None, factor: float = 1.0
    ) -> None:
        """Add days of orders and visits; four in ten of the app's are missing after the shift."""
        for _ in range(days):
            lost = 0.6 if self.day >= SHIFT else 1.0
            daily = [DAILY[0] * factor, DAILY[1] * lost * factor, DAILY[2] * factor]
            for partition in (0, 1):
                codes = np.repeat(np.arange(3), self.rng.poisson(np.array(daily) / 2))
                at = self._times(codes.size)
                if silent is not None:
                    hour = at // HOUR_MS % 24
                    kept = (hour < silent.start) | (hour >= silent.stop)
                    at, codes = at[kept], codes[kept]
                amount = np.rint(self.rng.lognormal(8.0, 0.4, at.size)).astype(np.int64)
                yes, no = np.ones(at.size, np.bool_), np.zeros(at.size, np.bool_)
                labels = {"channel": Labels(codes, CHANNELS)}
                self.cells[partition].add("orders", at, order_sums(yes, no, amount, no), labels)
                visits = self._times(120)
                self.cells[partition].add(
                    "interactions", visits, contact_sums(np.zeros(120, np.bool_)), {}
                )
                await self.commit(partition)
            self.day += 1

    def _times(self, number: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        times = (FIRST_DAY + self.day) * DAY_MS + self.rng.integers(0, DAY_MS, number)
        return np.asarray(np.sort(times))

    async def commit(self, partition: int) -> None:
        self.sequence[partition] += 1
        now = str((FIRST_DAY + self.day + 1) * DAY_MS)
        fields: dict[str, str | int] = {f"max_event_at:{role}": now for role in INPUTS}
        fields |= {f"offset:{role}": self.sequence[partition] for role in INPUTS}
        await self.store.commit(
            Commit(
                partition, self.sequence[partition], "w", fields, {}, [], [], [], {},
                series=self.cells[partition].take(),
            )
        )  # fmt: skip

    async def prune(self) -> None:
        """Let both shards drop what the watch has closed."""
        for partition, cells in enumerate(self.cells):
            taken = int(self.fields[f"taken:{partition}"])
            cells.close(int(self.fields["closed"]), int(self.fields["closed_hour"]), taken)
            await self.commit(partition)

    @property
    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(out.value or b"") for out in self.sender.others("alerts")]

    @property
    def kept(self) -> list[dict[str, Any]]:
        return [json.loads(step.text) for step in self.store.shards[0].alerts]

    @property
    def fields(self) -> dict[str, str]:
        return self.store.watch.fields


def told(steps: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(step["metric"], step["element"], step["reason"]) for step in steps]


async def look(watch: TrendWatch) -> None:
    while await watch.look():
        pass


def test_a_fall_is_told_with_its_cause_and_kept() -> None:
    async def main() -> None:
        shop = Shop()
        await shop.sell(85)
        watch = shop.watch()
        await look(watch)
        assert shop.fields["closed"] == str(FIRST_DAY + 84)
        assert shop.sent == shop.kept
        assert sorted(told(shop.kept)) == [("orders", "", "fired"), ("revenue", "", "fired")]
        first = shop.kept[0]
        TypeAdapter(Alert).validate_python(first)
        assert first["causes"][0]["element"] == "app"
        assert first["direction"] == "down"
        assert first["stake_per_day"] == pytest.approx(12 * 32, rel=0.5)
        assert first["change_share"] == pytest.approx(-0.11, abs=0.05)
        assert set(await shop.store.read_open_alerts(0)) == {s["fingerprint"] for s in shop.kept}
        keys = {out.key for out in shop.sender.others("alerts")}
        assert keys == {step["fingerprint"].encode() for step in shop.kept}

    asyncio.run(main())


def test_one_bucket_at_a_time_with_restarts_is_the_same_as_all_at_once() -> None:
    async def main() -> None:
        at_once, daily = Shop(), Shop()
        await at_once.sell(100)
        await look(at_once.watch())
        for _ in range(100):
            await daily.sell()
            await look(daily.watch())
        assert daily.kept == at_once.kept
        assert daily.store.watch.state == at_once.store.watch.state
        assert len(at_once.kept) >= 2

    asyncio.run(main())


@pytest.mark.parametrize("lost", ["before_commit", "after_commit", "send"])
def test_a_crash_between_publishing_and_commit_repeats_ids_and_changes_nothing(lost: str) -> None:
    async def main() -> None:
        calm, hit = Shop(), Shop()
        for shop in (calm, hit):
            await shop.sell(59)
            await look(shop.watch())
            await shop.sell(26)
        await look(calm.watch())
        watch = hit.watch()
        if lost == "send":
            hit.sender.on_delivery = lambda sent: BrokerUnavailableError("away")
            with pytest.raises(BrokerUnavailableError):
                await watch.look()
            hit.sender.on_delivery = lambda sent: None
        else:
            setattr(hit.store, lost, StoreUnavailableError("away"))
            with pytest.raises(StoreUnavailableError):
                await watch.look()
        await look(watch)
        assert hit.kept == calm.kept
        assert hit.store.watch.state == calm.store.watch.state
        ids = [step["id"] for step in hit.sent]
        assert set(ids) == {step["id"] for step in calm.kept}
        repeated = 1 if lost == "after_commit" else 2
        assert len(ids) == repeated * len(calm.kept) > 0

    asyncio.run(main())


def test_of_two_watches_one_is_refused_and_goes_on_from_the_other() -> None:
    async def main() -> None:
        shop, alone = Shop(), Shop()
        one, two = shop.watch("one"), shop.watch("two")
        for other in (shop, alone):
            await other.sell(50)
        await look(one)
        await look(two)
        await look(alone.watch())
        for other in (shop, alone):
            await other.sell(35)
        assert await one.look() == 35
        with pytest.raises(CommitRefusedError):
            await two.look()
        assert await two.look() == 0
        await look(alone.watch())
        assert shop.kept == alone.kept
        assert {step["id"] for step in shop.sent} == {step["id"] for step in alone.kept}
        assert shop.store.watch.state == alone.store.watch.state

    asyncio.run(main())


def test_a_watch_that_was_overtaken_publishes_nothing() -> None:
    async def main() -> None:
        shop = Shop()
        stopped, other = shop.watch("stopped"), shop.watch("other")
        await shop.sell(40)
        await look(stopped)
        await shop.sell(6)
        await look(other)
        await shop.prune()
        await shop.sell(1)
        # To the one that was stopped, six days of which nothing is left are still to be closed.
        with pytest.raises(CommitRefusedError):
            await stopped.look()
        assert shop.sent == []
        await look(stopped)
        assert shop.fields["closed"] == str(FIRST_DAY + 46)
        assert shop.sent == []

    asyncio.run(main())


def test_a_commit_sends_what_has_changed_alone() -> None:
    async def main() -> None:
        shop = Shop()
        await shop.sell(30)
        await look(shop.watch())
        before = dict(shop.store.watch.state)
        await shop.sell(1, silent=slice(5, 24))
        watch = shop.watch()
        commits: list[WatchCommit] = []
        commit_watch = shop.store.commit_watch

        async def noted(commit: WatchCommit) -> None:
            commits.append(commit)
            await commit_watch(commit)

        shop.store.commit_watch = noted  # type: ignore[method-assign]
        until = (FIRST_DAY + 30) * DAY_MS + 6 * HOUR_MS
        for shard in shop.store.shards.values():
            shard.record.fields.update({f"max_event_at:{role}": str(until) for role in INPUTS})
        assert await watch.look() == 0
        (commit,) = commits
        assert commit.state.keys() == {"producers/0"}
        after = shop.store.watch.state
        assert {name for name in after if after[name] != before[name]} == {"producers/0"}

    asyncio.run(main())


def test_pieces_of_a_metric_that_was_dropped_are_no_more() -> None:
    async def main() -> None:
        three, two = ("revenue", "orders", "mean_order_value"), ("revenue", "orders")
        shop = Shop(settings(metrics=three))
        await shop.sell(40)
        await look(shop.watch())
        before = shop.store.watch.state.keys()
        shop.settings = settings(metrics=two)
        await shop.sell(1)
        await look(shop.watch())
        assert before - shop.store.watch.state.keys() == {"mean_order_value/0"}
        # It comes back, and begins to learn: not from where it was.
        shop.settings = settings(metrics=three)
        await shop.sell(1)
        await look(shop.watch())
        assert shop.fields["learning"] == "27"

    asyncio.run(main())


def test_the_time_in_which_nothing_was_counted_is_no_fall() -> None:
    async def main() -> None:
        shop, on = Shop(settings(dimensions=())), settings(dimensions=())
        await shop.sell(40, factor=12.0)
        await look(shop.watch())
        await shop.prune()
        before = dict(shop.store.watch.state)
        shop.settings = settings(metrics=())
        await shop.watch().note_off()
        await shop.watch().note_off()
        assert (shop.fields["off"], shop.store.watch.state) == ("1", before)
        # Ten days of which shards note how far they have read; the half of one is counted.
        shop.day += 10
        shop.settings = on
        await shop.sell(1, silent=slice(0, 12), factor=12.0)
        for shard in shop.store.shards.values():
            until = str((FIRST_DAY + 50) * DAY_MS + 12 * HOUR_MS)
            shard.record.fields.update({f"max_event_at:{role}": until for role in INPUTS})
        await look(shop.watch())
        assert shop.fields["off"] == "0"
        await shop.sell(5, factor=12.0)
        await look(shop.watch())
        await shop.prune()
        assert shop.kept == []
        assert shop.fields["closed"] == str(FIRST_DAY + 55)
        assert shop.fields["points"] == "56"
        assert [cells.late for cells in shop.cells] == [0, 0]
        # What it tells from now on counts again.
        await shop.sell(4, factor=3.0)
        await look(shop.watch())
        assert ("revenue", "", "fired") in told(shop.kept)

    asyncio.run(main())


@pytest.mark.parametrize(("before", "after"), [("hour", "day"), ("day", "hour")])
def test_another_length_of_buckets_begins_with_the_first_whole_one(before: str, after: str) -> None:
    async def main() -> None:
        shop = Shop(settings(bucket=before, dimensions=()), seed=4)
        await shop.sell(30, factor=12.0)
        await shop.sell(1, silent=slice(15, 24), factor=12.0)
        noon = str((FIRST_DAY + 30) * DAY_MS + 15 * HOUR_MS)
        for shard in shop.store.shards.values():
            shard.record.fields.update({f"max_event_at:{role}": noon for role in INPUTS})
        await look(shop.watch())
        await shop.prune()
        for shard in shop.store.shards.values():
            shard.record.fields.update({f"max_event_at:{role}": noon for role in INPUTS})
        before_it = len(shop.kept)
        closed_hour = int(shop.fields["closed_hour"])
        assert closed_hour == (FIRST_DAY + 30) * 24 + 14
        kept = [shop.store.shards[p].record.series for p in (0, 1)]
        shop.settings = settings(bucket=after, dimensions=())
        gone = [int(shop.fields[f"taken:{p}"]) for p in (0, 1)]
        unit = shop.settings.series.bucket
        shop.cells = [OpenCells(unit, 100, kept[p], gone=gone[p]) for p in (0, 1)]
        await look(shop.watch())
        assert shop.fields["unit"] == after
        assert int(shop.fields["closed_hour"]) == closed_hour
        shop.day -= 1
        await shop.sell(1, silent=slice(0, 15), factor=12.0)
        await shop.sell(2, factor=12.0)
        await look(shop.watch())
        # No outage of hours that had been dropped, and no point of a part.
        assert not [step for step in shop.kept[before_it:] if step["reason"] == "fired"]
        first = (FIRST_DAY + 31) * DAY_MS if after == "day" else int(noon) + HOUR_MS
        assert int(shop.fields["points_from"]) == first
        assert int(shop.fields["learning"]) == (26 if after == "day" else 2 * 168 - 32 - 24)

    asyncio.run(main())


def test_a_worker_that_has_the_watch_no_more_measures_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monkeypatch.setattr("valuetide.streams.watch.LOOK_SECONDS", 0.001)
        shop, metrics, shards = Shop(), Metrics(), {0: None}
        await shop.sell(3)
        clock = Clock("event", 3_600.0, shop.wall)
        watch = TrendWatch(shop.settings, shop.store, shop.sender, metrics, clock, "w", shards)
        series = "valuetide_series"
        running = asyncio.create_task(watch.run())
        async with asyncio.timeout(10.0):
            while not metrics.registry.get_sample_value(series):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            shards.clear()
            while metrics.registry.get_sample_value(series):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()
        assert metrics.registry.get_sample_value("valuetide_series_points_needed") == 0.0

    asyncio.run(main())


def test_who_acknowledges_is_left_alone_until_then() -> None:
    async def main() -> None:
        shop = Shop()
        await shop.sell(75)
        watch = shop.watch()
        await look(watch)
        names = [step["fingerprint"] for step in shop.kept]
        until = (FIRST_DAY + 80) * DAY_MS + HOUR_MS
        for name in names:
            said = json.dumps({"until_ms": until, "by": "ann", "why": "we know"})
            shop.store.shards[0].acknowledgements[name] = said
        await shop.sell(5)
        await look(watch)
        later = [step for step in shop.kept[len(names) :] if step["fingerprint"] in names]
        assert not [step for step in later if step["notify"]]
        await shop.sell(1)
        watch = shop.watch()
        await look(watch)
        reminders = [step["fingerprint"] for step in shop.kept if step["reason"] == "reminder"]
        assert sorted(reminders) == sorted(names)
        await shop.sell(3)
        await look(watch)
        assert len([step for step in shop.kept if step["reason"] == "reminder"]) == len(names)

    asyncio.run(main())


def test_an_acknowledgement_that_cannot_be_read_is_passed_over() -> None:
    async def main() -> None:
        shop = Shop()
        await shop.sell(75)
        watch = shop.watch()
        await look(watch)
        for step in shop.kept:
            shop.store.shards[0].acknowledgements[step["fingerprint"]] = "{}"
        await shop.sell(1)
        await look(watch)
        assert shop.fields["closed"] == str(FIRST_DAY + 75)

    asyncio.run(main())


def test_a_producer_that_stops_is_an_outage_and_no_fall_in_value() -> None:
    async def main() -> None:
        # Orders come by fifty an hour, and for eight hours not at all, which is a third of a day.
        shop = Shop(settings(dimensions=()), seed=4)
        await shop.sell(50, factor=12.0)
        await shop.sell(3, silent=slice(9, 17), factor=12.0)
        await shop.sell(3, factor=12.0)
        await look(shop.watch())
        found = [(step["rule"], step["element"], step["reason"]) for step in shop.kept]
        assert found == [("outage", "orders", "fired"), ("outage", "orders", "resolved")] * 3
        first = shop.kept[0]
        TypeAdapter(Alert).validate_python(first)
        assert first["since"] == "2022-02-27T09:00:00Z"
        assert first["at"] == "2022-02-27T11:00:00Z"
        assert shop.kept[1]["at"] == "2022-02-27T18:00:00Z"
        assert first["sentence"].startswith("No events on orders since 2022-02-27 09:00 UTC")

    asyncio.run(main())


def test_it_says_that_it_is_learning() -> None:
    async def main() -> None:
        shop = Shop()
        await shop.sell(12)
        await look(shop.watch())
        assert (shop.fields["points"], shop.fields["learning"]) == ("12", "16")
        assert shop.fields["taken:0"] != "0"
        await shop.sell(20)
        await look(shop.watch())
        assert shop.fields["learning"] == "0"

    asyncio.run(main())


def test_hours_are_points_as_well() -> None:
    async def main() -> None:
        shop = Shop(settings(bucket="hour", metrics=("orders",)), seed=9)
        await shop.sell(3, factor=24.0)
        first = [int(name.partition("h|")[0]) for one in shop.store.shards.values()
                 for name in one.record.series if name.endswith("h||")]  # fmt: skip
        watch = shop.watch()
        assert await watch.look() == MOST_BUCKETS
        await look(watch)
        assert shop.fields["closed"] == shop.fields["closed_hour"] == str(max(first))
        points = max(first) - min(first) + 1
        assert shop.fields["points"] == str(points) == "72"
        assert shop.fields["learning"] == str(2 * 168 - points)

    asyncio.run(main())


def test_other_holidays_begin_anew_and_lose_nothing_else() -> None:
    async def main() -> None:
        shop = Shop()
        await shop.sell(75)
        await look(shop.watch())
        before, told_before = dict(shop.fields), shop.kept
        shop.store.shards[0].alerts.append(AlertStep("c", '{"rule": "at_risk"}', True))
        shop.settings = settings(holidays={"2026-12-25": "christmas"})
        await shop.sell(1)
        await look(shop.watch())
        assert (shop.fields["points"], shop.fields["learning"]) == ("1", "27")
        assert int(shop.fields["closed"]) == int(before["closed"]) + 1
        assert int(shop.fields["taken:0"]) > int(before["taken:0"])
        # What nobody watches any more does not stay open for ever.
        assert set(await shop.store.read_open_alerts(0)) == {"c"}
        last = {step["fingerprint"]: step for step in shop.sent}
        assert last.keys() == {step["fingerprint"] for step in told_before}
        assert {step["reason"] for step in last.values()} == {"accepted"}
        for step in last.values():
            TypeAdapter(Alert).validate_python(step)

    asyncio.run(main())


def test_state_that_cannot_be_read_is_said() -> None:
    async def main() -> None:
        shop = Shop()
        await shop.sell(3)
        await look(shop.watch())
        shop.store.watch.state["panel/0"] = b"x"
        with pytest.raises(FaultError, match="watch's state"):
            await shop.watch().look()

    asyncio.run(main())


def test_strays_from_long_ago_are_no_beginning() -> None:
    days = [0, 12_000, 19_000, 19_020, 19_021]
    shards: list[dict[str, bytes]] = [{f"{day}d||": b"\x91\x01" for day in days}, {}]
    assert first_bucket(shards, "day") == 19_000
    assert first_bucket(shards[1:], "day") is None


def test_a_cell_that_is_none_names_its_shard() -> None:
    shards = [{}, {"5d||": b"\x91\xa1x"}]
    with pytest.raises(FaultError, match="partition 1"):
        sums_of(shards, "day", (4, 6), 0)
