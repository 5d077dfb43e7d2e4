"""What every state store has to do; each backend's test class inherits all of it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from valuetide.streams.store import (
    AlertStep,
    Commit,
    CommitRefusedError,
    ShardRecord,
    StateStore,
    WatchCommit,
    WatchRecord,
)
from valuetide.streams.store.interface import type_of_value

COLUMNS = ("version", "profit", "rfm", "note")
NUMBERS = ("version", "profit")
TEXTS = ("rfm", "note")
RANKED = ("profit", "revenue")
TOP_SIZE = 3

STRANGE_IDS = (
    "{x}",
    "}{",
    "a b",
    " ",
    "ü-ß-漢字-🙂",
    "line\nbreak\r\n",
    "a:b:{9}:c",
    "nul\x00byte",
    "*?[a-z]\\",
    "'\"",
    "7" * 128,
    "🙂" * 128,
)

Row = dict[str, float | str]
Rows = list[Row | None]
Top = list[tuple[str, float]]


def stored_row(row: Sequence[type_of_value]) -> Row:
    """Give a row as it reads back: an empty string for no value, numbers as floats."""
    return {
        name: "" if value is None else float(value) if name in NUMBERS else str(value)
        for name, value in zip(COLUMNS, row, strict=True)
    }


def make_commit(
    sequence: int = 1,
    *,
    writer: str = "one",
    partition: int = 0,
    fields: dict[str, str | int] | None = None,
    months: dict[str, str] | None = None,
    customers: dict[str, bytes] | None = None,
    rows: Sequence[Sequence[type_of_value]] | None = None,
    top: dict[str, list[tuple[float, str]]] | None = None,
    model: dict[str, bytes] | None = None,
    series: dict[str, bytes | None] | None = None,
    alerts: Sequence[AlertStep] = (),
) -> Commit:
    """Give a commit; each customer's row tells its state's length unless rows are given."""
    customers = customers or {}
    return Commit(
        partition=partition,
        sequence=sequence,
        writer=writer,
        fields={"offset:orders": sequence * 10} if fields is None else fields,
        months=months or {},
        ids=list(customers),
        states=list(customers.values()),
        rows=[(sequence, len(state) / 4, "555", None) for state in customers.values()]
        if rows is None
        else rows,
        top=top or {},
        model=model or {},
        series=series or {},
        alerts=alerts,
    )


def _who(sequence: int, writer: str = "one") -> dict[str, str]:
    return {"sequence": str(sequence), "writer": writer}


class StateStoreContract(ABC):
    """Tests of a backend, which says how a store is made and how its rows are looked at."""

    @abstractmethod
    def make_store(self) -> StateStore:
        """Give a store that keeps TOP_SIZE per ranked field; all of one test see one state."""

    @abstractmethod
    async def rows(self, partition: int, ids: Sequence[str]) -> Rows:
        """Give the score fields of customers, as people would read them."""

    @abstractmethod
    async def top(self, partition: int, field: str) -> Top:
        """Give the ranked customers of a shard, best first."""

    def run(self, scenario: Callable[[StateStore], Awaitable[None]]) -> None:
        """Run a scenario with a store of its own, in a loop of its own."""

        async def whole() -> None:
            store = self.make_store()
            try:
                await scenario(store)
            finally:
                await store.close()

        asyncio.run(whole())

    async def everything(self, store: StateStore, ids: Sequence[str], partition: int = 0) -> Any:
        """Give all that can be read of a shard."""
        return (
            await store.read_shard(partition),
            await store.read_states(partition, ids),
            await self.rows(partition, ids),
            {field: await self.top(partition, field) for field in RANKED},
            await store.read_open_alerts(partition),
        )

    # -- commit and read back -------------------------------------------------------------------

    def test_a_shard_that_was_never_written_is_empty(self) -> None:
        async def scenario(store: StateStore) -> None:
            assert await store.read_shard(7) == ShardRecord(0, "", {}, {})
            assert await store.read_states(7, ["ann", "bob"]) == [None, None]
            assert await store.read_states(7, []) == []

        self.run(scenario)

    def test_what_is_committed_is_read_back(self) -> None:
        async def scenario(store: StateStore) -> None:
            await store.commit(
                make_commit(
                    fields={"offset:orders": 12, "settings": "a=1 b=ü"},
                    months={"2026-01": "1 2 3"},
                    customers={"ann": b"state", "bob": b""},
                    rows=[(1, -19.99, "512", "x y"), (2, None, "000", None)],
                )
            )
            fields = {"offset:orders": "12", "settings": "a=1 b=ü"}
            months = {"2026-01": "1 2 3"}
            assert await store.read_shard(0) == ShardRecord(1, "one", fields, months)
            assert await store.read_states(0, ["bob", "eve", "ann"]) == [b"", None, b"state"]
            assert await self.rows(0, ["ann", "bob", "eve"]) == [
                {"version": 1.0, "profit": -19.99, "rfm": "512", "note": "x y"},
                {"version": 2.0, "profit": "", "rfm": "000", "note": ""},
                None,
            ]
            assert await store.read_shard(1) == ShardRecord()

        self.run(scenario)

    def test_fields_and_months_merge_and_customers_replace(self) -> None:
        async def scenario(store: StateStore) -> None:
            old: dict[str, str | int] = {"a": 1, "b": 2}
            await store.commit(
                make_commit(fields=old, months={"2025-12": "1", "2026-01": "2"},
                            customers={"ann": b"old", "bob": b"stays"})
            )  # fmt: skip
            await store.commit(
                make_commit(2, fields={"b": 3, "c": 4}, months={"2026-01": "5", "2026-02": "6"},
                            customers={"ann": b"new"})
            )  # fmt: skip
            assert await store.read_shard(0) == ShardRecord(
                2,
                "one",
                {"a": "1", "b": "3", "c": "4"},
                {"2025-12": "1", "2026-01": "5", "2026-02": "6"},
            )
            assert await store.read_states(0, ["ann", "bob"]) == [b"new", b"stays"]

        self.run(scenario)

    def test_pieces_of_the_model_merge_hold_every_byte_and_are_read_one_by_one(self) -> None:
        async def scenario(store: StateStore) -> None:
            every = bytes(range(256))
            pieces = {f"{n:02x}": every[n:] * 5 for n in range(256)} | {"head": b"\x00\xff"}
            await store.commit(make_commit(1, model=pieces, customers={"ann": b"a"}))
            assert (await store.read_shard(0)).model == pieces
            await store.commit(make_commit(2, model={"07": b"", "head": b"2", "more": every}))
            merged = pieces | {"07": b"", "head": b"2", "more": every}
            assert (await store.read_shard(0)).model == merged
            await store.commit(make_commit(3))
            assert (await store.read_shard(0)).model == merged
            with pytest.raises(CommitRefusedError):
                await store.commit(make_commit(3, writer="two", model={"head": b"3"}))
            await store.commit(make_commit(1, partition=2, model={"head": b"other"}))
            assert await store.read_models([2, 1, 0], ["head", "xyz"]) == [
                {"head": b"other"},
                {},
                {"head": b"2"},
            ]
            assert await store.read_models([], ["head"]) == []
            assert await store.read_states(0, ["ann"]) == [b"a"]

        self.run(scenario)

    def test_open_buckets_are_set_and_deleted_however_many(self) -> None:
        async def scenario(store: StateStore) -> None:
            every = bytes(range(256))
            many: dict[str, bytes | None] = {f"b{n}": every[n % 256 :] for n in range(9_001)}
            await store.commit(make_commit(1, series=many | {"channel=ü": b""}))
            assert (await store.read_shard(0)).series == many | {"channel=ü": b""}
            gone: dict[str, bytes | None] = dict.fromkeys([*list(many)[1:], "never was"])
            await store.commit(make_commit(2, series=gone | {"b0": b"new"}))
            left = {"b0": b"new", "channel=ü": b""}
            assert (await store.read_shard(0)).series == left
            await store.commit(make_commit(1, partition=2, fields={"max_event_at": 5}))
            assert [await store.read_buckets(p) for p in (2, 0, 7)] == [{}, left, {}]
            assert await store.read_records([2, 0, 7]) == [
                {"max_event_at": "5"} | _who(1), {"offset:orders": "20"} | _who(2), {},
            ]  # fmt: skip

        self.run(scenario)

    def test_the_last_step_of_each_open_alert_is_kept(self) -> None:
        async def scenario(store: StateStore) -> None:
            await store.commit(
                make_commit(1, alerts=[AlertStep("a", "1", True), AlertStep("b", '{"ü": 1}', True)])
            )
            assert await store.read_open_alerts(0) == {"a": "1", "b": '{"ü": 1}'}
            await store.commit(make_commit(2))
            await store.commit(make_commit(2))
            steps = [AlertStep("b", "2", True), AlertStep("a", "3", False)]
            await store.commit(make_commit(3, alerts=steps))
            assert await store.read_open_alerts(0) == {"b": "2"}
            assert await store.read_open_alerts(1) == {}
            with pytest.raises(CommitRefusedError):
                await store.commit(make_commit(3, writer="two", alerts=steps))
            assert await store.read_open_alerts(0) == {"b": "2"}
            assert (await store.read_shard(0)).alerts == {"b": "2"}

        self.run(scenario)

    def test_the_watch_moves_by_itself_and_only_by_its_owner(self) -> None:
        async def scenario(store: StateStore) -> None:
            assert await store.read_watch() == WatchRecord()
            one = WatchCommit(1, "one", {"point": 7}, {"x": b"\xff"}, [AlertStep("a", "1", True)])
            await store.commit_watch(one)
            await store.commit_watch(one)  # its answer got lost
            await store.commit_watch(WatchCommit(2, "one", {"late": 1}, {"y": b""}))
            for sequence, writer in ((1, "one"), (2, "two"), (4, "one")):
                with pytest.raises(CommitRefusedError, match="the watch is at commit 2 by one"):
                    await store.commit_watch(
                        WatchCommit(
                            sequence,
                            writer,
                            {"point": 9},
                            {"x": b"no"},
                            [AlertStep("a", "9", False)],
                        )
                    )
            assert await store.read_watch() == WatchRecord(
                2, "one", {"point": "7", "late": "1"}, {"x": b"\xff", "y": b""}
            )
            fields = await store.read_watch_fields()
            assert fields == {"point": "7", "late": "1", "sequence": "2", "writer": "one"}
            assert await store.read_open_alerts(0) == {"a": "1"}
            assert await store.read_acknowledgements(0) == {}
            assert await store.read_shard(0) == ShardRecord(alerts={"a": "1"})
            await store.commit_watch(WatchCommit(3, "one", {}, {"x": None, "never": None}))
            assert (await store.read_watch()).state == {"y": b""}

        self.run(scenario)

    def test_the_record_of_the_watch_holds_numbers_of_very_many_shards(self) -> None:
        async def scenario(store: StateStore) -> None:
            many: dict[str, str | int] = {f"taken:{p}": p for p in range(9_001)}
            await store.commit_watch(WatchCommit(1, "one", many, {}))
            assert (await store.read_watch()).fields == {n: str(p) for n, p in many.items()}

        self.run(scenario)

    def test_customers_of_the_shards_asked_for_are_found(self) -> None:
        async def scenario(store: StateStore) -> None:
            many = {f"c{n}": b"x" for n in range(2_500)}
            await store.commit(make_commit(1, customers=many))
            await store.commit(make_commit(1, partition=1, customers={"bob": b"b"}))
            strange = {"a}:customer:{b": b"s", "*": b"t", "Zoë": b"u"}
            await store.commit(make_commit(1, partition=2, customers=strange))

            async def found(partitions: list[int]) -> dict[int, set[str]]:
                seen: dict[int, set[str]] = {}
                async for partition, ids in store.scan_customers(partitions):
                    seen.setdefault(partition, set()).update(ids)
                return seen

            assert await found([0, 2]) == {0: set(many), 2: set(strange)}
            assert await found([1]) == {1: {"bob"}}
            assert await found([3]) == {}

        self.run(scenario)

    def test_numbers_keep_their_value(self) -> None:
        """Large whole numbers stay whole, so that a reader's int() takes them."""
        numbers = [0.1, 1e-300, -1e300, 2.5, 1e21, 123456789.01, 1 / 3, 5e-324]
        whole = [0, 1, -1, 10_000_000, 100_000_000, 10**9, 2**31, 2**53, 10**15]

        async def scenario(store: StateStore) -> None:
            rows = [(w, n, "0", None) for w in whole for n in numbers]
            customers = {str(i): b"s" for i in range(len(rows))}
            await store.commit(make_commit(customers=customers, rows=rows))
            assert await self.rows(0, list(customers)) == [stored_row(row) for row in rows]

        self.run(scenario)

    def test_without_score_fields_only_the_state_is_kept_and_back(self) -> None:
        async def scenario(store: StateStore) -> None:
            both = {"ann": b"a", "bob": b"b"}
            await store.commit(make_commit(1, customers=both))
            await store.commit(make_commit(2, customers={"ann": b"aa"}, rows=()))
            assert (await self.rows(0, ["ann"]))[0] in (None, {})
            assert (await self.rows(0, ["bob"]))[0] == stored_row((1, 0.25, "555", None))
            assert await store.read_states(0, ["ann", "bob"]) == [b"aa", b"b"]
            await store.commit(make_commit(3, customers={"ann": b"aaaa"}))
            assert (await self.rows(0, ["ann"]))[0] == stored_row((3, 1.0, "555", None))
            assert await store.read_states(0, ["ann"]) == [b"aaaa"]

        self.run(scenario)

    def test_a_commit_without_customers_moves_the_record(self) -> None:
        async def scenario(store: StateStore) -> None:
            assert await store.commit(make_commit(1)) == {}
            assert await store.commit(make_commit(2, fields={})) == {}
            record = await store.read_shard(0)
            assert (record.sequence, record.fields) == (2, {"offset:orders": "10"})

        self.run(scenario)

    def test_shards_do_not_touch_each_other(self) -> None:
        async def scenario(store: StateStore) -> None:
            best = {"profit": [(1.0, "ann")]}
            await store.commit(make_commit(partition=1, customers={"ann": b"1"}, top=best))
            await store.commit(make_commit(partition=11, customers={"ann": b"11"}))
            assert await store.read_states(1, ["ann"]) == [b"1"]
            assert await store.read_states(11, ["ann"]) == [b"11"]
            assert await store.read_states(0, ["ann"]) == [None]
            assert (await store.read_shard(1)).sequence == 1
            assert await self.top(11, "profit") == []

        self.run(scenario)

    def test_five_thousand_customers_in_one_commit(self) -> None:
        async def scenario(store: StateStore) -> None:
            customers = {f"c{i}": bytes([i % 256]) * (i % 90) for i in range(5_000)}
            best = [(float(i), f"c{i}") for i in range(5_000)]
            floors = await store.commit(make_commit(customers=customers, top={"profit": best}))
            assert floors == {"profit": 4_997.0}
            assert await store.read_states(0, list(customers)) == list(customers.values())
            rows = await self.rows(0, list(customers))
            assert [row and row["profit"] for row in rows] == [
                len(state) / 4 for state in customers.values()
            ]

        self.run(scenario)

    def test_any_text_can_be_an_id(self) -> None:
        async def scenario(store: StateStore) -> None:
            customers = {customer: customer.encode()[:200] for customer in STRANGE_IDS}
            for i, (customer, state) in enumerate(customers.items(), 1):
                ranked = {"profit": [(float(i), customer)]}
                await store.commit(make_commit(i, customers={customer: state}, top=ranked))
            assert await store.read_states(0, STRANGE_IDS) == list(customers.values())
            assert await self.top(0, "profit") == [
                (customer, float(i))
                for i, customer in sorted(enumerate(STRANGE_IDS, 1), reverse=True)[:TOP_SIZE]
            ]
            profits = [row and row["profit"] for row in await self.rows(0, STRANGE_IDS)]
            assert profits == [len(state) / 4 for state in customers.values()]

        self.run(scenario)

    def test_a_state_can_hold_every_byte(self) -> None:
        async def scenario(store: StateStore) -> None:
            states = [
                bytes(range(256)),
                bytes(range(255, -1, -1)),
                b"\x00",
                b"\r\n",
                b"\xff" * 1024,
            ]
            customers = {str(i): state for i, state in enumerate(states)}
            await store.commit(make_commit(customers=customers))
            assert await store.read_states(0, list(customers)) == states

        self.run(scenario)

    def test_states_are_read_in_the_order_asked_for_however_many(self) -> None:
        async def scenario(store: StateStore) -> None:
            customers = {f"c{i}": str(i).encode() for i in range(0, 12_000, 3)}
            await store.commit(make_commit(customers=customers))
            asked = [f"c{i}" for i in range(12_000, -1, -1)]
            assert await store.read_states(0, asked) == [customers.get(one) for one in asked]
            assert await store.read_states(0, ["c3", "c3"]) == [b"3", b"3"]

        self.run(scenario)

    # -- compare and set ------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("sequence", "writer"),
        [*((n, who) for n in (0, 1, 4, 5, 100) for who in ("one", "two")), (2, "two")],
    )
    def test_a_refused_commit_changes_nothing_at_all(self, sequence: int, writer: str) -> None:
        """The shard is at 2 by writer one: only 3 is right, and 2 by writer one is a repeat."""

        async def scenario(store: StateStore) -> None:
            ids = ["ann", "bob", "new"]
            for made in (1, 2):
                await store.commit(
                    make_commit(
                        made,
                        months={"2026-01": "1"},
                        customers={"ann": b"a", "bob": b"b"},
                        top={"profit": [(3.0, "ann"), (2.0, "bob")], "revenue": [(1.0, "ann")]},
                    )
                )
            before = await self.everything(store, ids)
            with pytest.raises(CommitRefusedError, match="partition 0 is at commit 2 by one"):
                await store.commit(
                    make_commit(
                        sequence,
                        writer=writer,
                        fields={"offset:orders": 99, "more": 1},
                        months={"2026-01": "9", "2026-02": "9"},
                        customers={"ann": b"no", "new": b"no"},
                        top={"profit": [(-9.0, "ann"), (9.0, "new")], "revenue": [(9.0, "new")]},
                        series={"b": b"no"},
                        alerts=[AlertStep("f", "no", True)],
                    )
                )
            assert await self.everything(store, ids) == before

        self.run(scenario)

    def test_a_repeated_commit_counts_as_made_and_changes_nothing(self) -> None:
        """As when the answer was lost. Even other content changes nothing: the first is true."""

        async def scenario(store: StateStore) -> None:
            ids = ["ann", "bob", "cem"]
            first = make_commit(
                customers={"ann": b"a", "bob": b"b", "cem": b"c"},
                top={"profit": [(3.0, "ann"), (2.0, "bob"), (1.0, "cem")]},
            )
            floors = await store.commit(first)
            assert floors == {"profit": 1.0}
            before = await self.everything(store, ids)
            assert await store.commit(first) == floors
            other = make_commit(customers={"ann": b"other"}, top={"profit": [(9.0, "ann")]})
            assert await store.commit(other) == floors
            assert await self.everything(store, ids) == before
            await store.commit(make_commit(2))

        self.run(scenario)

    def test_the_same_sequence_of_another_writer_is_refused(self) -> None:
        async def scenario(store: StateStore) -> None:
            await store.commit(make_commit(writer="one", customers={"ann": b"a"}))
            with pytest.raises(CommitRefusedError):
                await store.commit(make_commit(writer="two", customers={"ann": b"a"}))
            await store.commit(make_commit(2, writer="two"))
            assert (await store.read_shard(0)).writer == "two"
            with pytest.raises(CommitRefusedError, match="at commit 2 by two"):
                await store.commit(make_commit(2, writer="one"))

        self.run(scenario)

    def test_of_two_writers_that_race_exactly_one_wins_each_time(self) -> None:
        async def scenario(store: StateStore) -> None:
            other = self.make_store()
            try:
                for sequence in range(1, 30):
                    racing = [
                        one.commit(
                            make_commit(sequence, writer=writer, customers={"ann": writer.encode()})
                        )
                        for one, writer in ((store, "one"), (other, "two"))
                    ]
                    results = await asyncio.gather(*racing, return_exceptions=True)
                    refused = [isinstance(result, CommitRefusedError) for result in results]
                    assert sorted(refused) == [False, True], results
                    winner = "two" if refused[0] else "one"
                    record = await store.read_shard(0)
                    assert (record.sequence, record.writer) == (sequence, winner)
                    assert await other.read_states(0, ["ann"]) == [winner.encode()]
            finally:
                await other.close()

        self.run(scenario)

    # -- the best customers ---------------------------------------------------------------------

    def test_the_best_are_kept_and_the_floor_is_the_least_of_them(self) -> None:
        async def scenario(store: StateStore) -> None:
            two = {"profit": [(5.0, "a"), (1.0, "b")], "revenue": []}
            assert await store.commit(make_commit(1, top=two)) == {}
            more = {"profit": [(3.0, "c"), (-1.5, "d")]}
            assert await store.commit(make_commit(2, top=more)) == {"profit": 1.0}
            assert await self.top(0, "profit") == [("a", 5.0), ("c", 3.0), ("b", 1.0)]
            assert await store.commit(make_commit(3)) == {"profit": 1.0}
            better = {"profit": [(4.5, "d"), (0.25, "e")]}
            assert await store.commit(make_commit(4, top=better)) == {"profit": 3.0}
            assert await self.top(0, "profit") == [("a", 5.0), ("d", 4.5), ("c", 3.0)]
            assert await self.top(0, "revenue") == []

        self.run(scenario)

    def test_a_value_that_falls_moves_its_customer_down_or_out(self) -> None:
        async def scenario(store: StateStore) -> None:
            await store.commit(make_commit(1, top={"profit": [(5, "a"), (4, "b"), (3, "c")]}))
            fallen = {"profit": [(3.5, "a")]}
            assert await store.commit(make_commit(2, top=fallen)) == {"profit": 3.0}
            assert await self.top(0, "profit") == [("b", 4.0), ("a", 3.5), ("c", 3.0)]
            out = {"profit": [(1.0, "b"), (2.0, "d")]}
            assert await store.commit(make_commit(3, top=out)) == {"profit": 2.0}
            assert await self.top(0, "profit") == [("a", 3.5), ("c", 3.0), ("d", 2.0)]

        self.run(scenario)

    def test_among_equals_the_greater_id_stays(self) -> None:
        async def scenario(store: StateStore) -> None:
            ids = ["a", "ä", "Z", "🙂", "｡", "b"]
            ranked = {"profit": [(1.0, customer) for customer in ids]}
            assert await store.commit(make_commit(top=ranked)) == {"profit": 1.0}
            best = sorted(ids, reverse=True)[:TOP_SIZE]
            assert await self.top(0, "profit") == [(customer, 1.0) for customer in best]

        self.run(scenario)

    def test_ranked_values_keep_every_bit(self) -> None:
        async def scenario(store: StateStore) -> None:
            values = [1 / 3, -1e-300, 123456789.015]
            ranked = [(value, str(i)) for i, value in enumerate(values)]
            floors = await store.commit(make_commit(top={"profit": ranked}))
            assert floors == {"profit": -1e-300}
            found = [value for _, value in await self.top(0, "profit")]
            assert found == sorted(values, reverse=True)

        self.run(scenario)
