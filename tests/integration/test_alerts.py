"""Alerts that were committed are found again: by the reader, the command line and over HTTP."""

import asyncio
import json
import signal
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from tests.support.alerts import AT_RISK, LEVEL, alert, commit_alerts, number
from tests.support.pipeline import cli, end, environment_of, invoke, make_settings, start_cli
from valuetide.streams.alerts import AlertReader, NoSuchAlertError, OpenAlert, Step
from valuetide.streams.http import HttpServer
from valuetide.streams.reader import Reader
from valuetide.streams.settings import Settings
from valuetide.streams.store.redis import acks_key, alerts_key, commit_key, open_alerts_key

pytestmark = [pytest.mark.servers, pytest.mark.timeout(60)]

NOWHERE = "127.0.0.1:9"
OTHER = "a4d1000000000000"
ENDED = "bbbb000000000000"


@pytest.fixture
def settings(redis_url: str, fresh_prefix: str) -> Settings:
    return make_settings(NOWHERE, redis_url, fresh_prefix, clock="wall")


def commit(settings: Settings, steps: Sequence[dict[str, Any]], partition: int = 0) -> None:
    url = settings.redis_url.get_secret_value()
    asyncio.run(commit_alerts(url, settings.key_prefix, steps, partition))


def some(settings: Settings) -> None:
    """Two alerts that go on, in different shards, and one that has ended, in that order."""
    commit(settings, [alert(1), alert(2, state="recovering", reason="back", notify=False)])
    commit(settings, [AT_RISK | {"fingerprint": OTHER}], 3)
    over = alert(4, ENDED, state="resolved", reason="resolved")
    commit(settings, [alert(3, ENDED), over])


class TestReader:
    def read(self, settings: Settings, what: Any) -> Any:
        async def whole() -> Any:
            async with Reader(settings) as reader:
                return await what(reader.alerts)

        return asyncio.run(whole())

    def test_open_alerts_are_the_last_steps_most_money_first(self, settings: Settings) -> None:
        some(settings)
        found: list[OpenAlert] = self.read(settings, lambda alerts: alerts.open())
        assert [(one.partition, one.alert["id"]) for one in found] == [
            (0, number(2)),
            (3, AT_RISK["id"]),
        ]
        assert all(one.acknowledged is None for one in found)
        assert found[0].as_json() == alert(
            2, state="recovering", reason="back", notify=False, acknowledged=None
        )

    def test_steps_of_all_shards_are_newest_first(self, settings: Settings) -> None:
        some(settings)
        ids = [number(4), number(3), AT_RISK["id"], number(2), number(1)]
        for count in (1, 3, 5, 9):
            steps: list[Step] = self.read(settings, lambda alerts, n=count: alerts.steps(n))
            assert [step.alert["id"] for step in steps] == ids[:count]

    def test_steps_of_one_millisecond_keep_their_order(self, settings: Settings) -> None:
        commit(settings, [alert(n) for n in range(15)])
        steps = self.read(settings, lambda alerts: alerts.steps(15))
        assert [step.alert["id"] for step in steps] == [number(n) for n in range(14, -1, -1)]

    def test_a_history_is_found_by_the_beginning_of_its_fingerprint(
        self, settings: Settings
    ) -> None:
        some(settings)
        for prefix in (LEVEL["fingerprint"], "a4d1c"):
            found = self.read(settings, lambda alerts, p=prefix: alerts.history(p))
            assert [step.alert["id"] for step in found.steps] == [number(1), number(2)]
            assert found.now is not None
        ended = self.read(settings, lambda alerts: alerts.history("b"))
        assert (ended.fingerprint, ended.now, len(ended.steps)) == (ENDED, None, 2)
        for prefix, says in (("a4d1", f"several alerts: {OTHER}, a4d1c"), ("c", "no alert c;")):
            with pytest.raises(NoSuchAlertError, match=says):
                self.read(settings, lambda alerts, p=prefix: alerts.history(p))

    def test_a_history_longer_than_a_page_is_whole(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("valuetide.streams.alerts.PAGE_STEPS", 3)
        commit(settings, [alert(n) for n in range(7)])
        found = self.read(settings, lambda alerts: alerts.history(LEVEL["fingerprint"]))
        assert [step.alert["id"] for step in found.steps] == [number(n) for n in range(7)]

    def test_more_shards_than_are_read_at_once(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("valuetide.streams.alerts.PARTITIONS_AT_ONCE", 1)
        some(settings)
        assert len(self.read(settings, lambda alerts: alerts.open())) == 2
        steps = self.read(settings, lambda alerts: alerts.steps(3))
        assert [step.alert["id"] for step in steps] == [number(4), number(3), AT_RISK["id"]]

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_what_is_followed_is_what_comes_from_then_on(
        self, settings: Settings, protocol: int
    ) -> None:
        url = settings.redis_url.get_secret_value()
        some(settings)

        async def follow(alerts: AlertReader) -> list[str]:
            new = alerts.follow()
            first = asyncio.ensure_future(anext(new))
            await asyncio.sleep(0.3)  # it waits
            await commit_alerts(url, settings.key_prefix, [alert(7), alert(8)])
            await commit_alerts(url, settings.key_prefix, [alert(9)], 2)
            return [
                (step).alert["id"] for step in [await first, await anext(new), await anext(new)]
            ]

        speaking = settings.model_copy(
            update={"redis_url": type(settings.redis_url)(f"{url}?protocol={protocol}")}
        )
        assert self.read(speaking, follow) == [number(7), number(8), number(9)]

    def test_an_acknowledgement_expires_and_then_goes(self, settings: Settings) -> None:
        some(settings)
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            acks = acks_key(settings.key_prefix, 0)
            redis.hset(acks, ENDED, '{"until_ms": 1, "by": "ann", "why": ""}')
            before = time.time()
            _, known = self.read(
                settings, lambda alerts: alerts.acknowledge("a4d1c", 7_200.0, "ann", "sale")
            )
            assert 0 <= known.until_ms / 1000 - before - 7_200 < 10
            written = redis.hgetall(acks)
            assert {name.decode(): json.loads(text) for name, text in written.items()} == {
                LEVEL["fingerprint"]: {"until_ms": known.until_ms, "by": "ann", "why": "sale"}
            }
            found = self.read(settings, lambda alerts: alerts.open())
            assert [one.acknowledged for one in found] == [known, None]
            redis.hset(acks, LEVEL["fingerprint"], '{"until_ms": 1, "by": "ann", "why": ""}')
            found = self.read(settings, lambda alerts: alerts.open())
            assert [one.acknowledged for one in found] == [None, None]

    def test_in_a_replay_an_acknowledgement_expires_by_event_time(self, settings: Settings) -> None:
        some(settings)
        replay = settings.model_copy(update={"clock": "auto"})
        last = 1_300_000_000_000
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            redis.hset(commit_key(settings.key_prefix, 2), "max_event_at", last)

            def ack(alerts: AlertReader) -> Any:
                return alerts.acknowledge(OTHER, 60.0, "ann", "")

            assert self.read(replay, ack)[1].until_ms == last + 60_000
            redis.hset(commit_key(settings.key_prefix, 2), "max_event_at", last + 60_000)
        found = self.read(replay, lambda alerts: alerts.open())
        assert [one.acknowledged for one in found] == [None, None]

    def test_what_has_ended_cannot_be_acknowledged(self, settings: Settings) -> None:
        some(settings)
        for prefix in (ENDED, "c", "a4d1"):
            with pytest.raises(NoSuchAlertError):
                self.read(settings, lambda alerts, p=prefix: alerts.acknowledge(p, 60.0, "ann", ""))

    @pytest.mark.parametrize(
        "fields",
        [
            {"alert": "{"},
            {"alert": json.dumps(LEVEL | {"since": "soon"})},
            {"alert": json.dumps(LEVEL | {"rule": "a_rule_to_come"})},
            {"alert": json.dumps(LEVEL | {"stake_per_day": float("nan")})},
            {"other": "field"},
        ],
    )
    def test_what_cannot_be_read_is_said_and_passed_over(
        self, settings: Settings, fields: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            redis.xadd(alerts_key(settings.key_prefix, 0), fields)
            redis.hset(open_alerts_key(settings.key_prefix, 0), OTHER, fields.get("alert", ""))
            redis.hset(acks_key(settings.key_prefix, 0), LEVEL["fingerprint"], "yes")
        commit(settings, [alert(1)])

        async def read(alerts: AlertReader) -> tuple[Any, ...]:
            fingerprint = LEVEL["fingerprint"]
            await alerts.acknowledge(fingerprint, 60.0, "ann", "")
            history = await alerts.history(fingerprint)
            return await alerts.open(), await alerts.steps(5), history.steps

        going_on, steps, history = self.read(settings, read)
        assert [one.alert["id"] for one in going_on] == [number(1)]
        assert going_on[0].acknowledged.by == "ann"
        assert [step.alert["id"] for step in steps] == [number(1)]
        assert [step.alert["id"] for step in history] == [number(1)]
        for what in (f"alert {OTHER} of partition 0", "step ", "acknowledgement of a4d1"):
            assert what in caplog.text


class TestCommandLine:
    def test_list_show_and_acknowledge(self, settings: Settings) -> None:
        environment = environment_of(settings)
        assert invoke(environment, "alerts", "list").stdout == "no open alerts\n"
        assert invoke(environment, "alerts", "list", "--history", "5").stdout == "no alerts yet\n"
        some(settings)
        listed = invoke(environment, "alerts", "list").stdout
        assert listed.splitlines()[0].startswith("a4d1c09be2357f68  recovering  since 2026-03-27")
        assert LEVEL["sentence"] in listed
        assert listed.splitlines()[-1] == "2 open"
        of_customers = invoke(environment, "alerts", "list", "--about", "customers").stdout
        of_series = invoke(environment, "alerts", "list", "--about", "series").stdout
        kinds = [of_customers.splitlines()[:-1], of_series.splitlines()[:-1]]
        assert sorted(listed.splitlines()[:-1]) == sorted([*kinds[0], *kinds[1]])
        assert all(kinds)
        done = invoke(
            environment, "alerts", "ack", "a4d1c", "--for", "3d", "--why", "a sale", "--by", "ann"
        )
        assert done.returncode == 0
        assert done.stdout.startswith("a4d1c09be2357f68 acknowledged until ")
        assert " by ann: a sale\n" in invoke(environment, "alerts", "list").stdout
        (first, _) = json.loads(invoke(environment, "alerts", "list", "--json").stdout)
        assert (first["acknowledged"]["by"], first["acknowledged"]["why"]) == ("ann", "a sale")
        shown = invoke(environment, "alerts", "show", "a4d1c").stdout
        for text in ("channel web: 91% of the change", "acknowledged", "back", "fired"):
            assert text in shown
        history = json.loads(invoke(environment, "alerts", "show", "bbbb", "--json").stdout)
        assert (history["fingerprint"], history["open"]) == (ENDED, False)
        assert [step["reason"] for step in history["steps"]] == ["fired", "resolved"]
        steps = invoke(environment, "alerts", "list", "--history", "2", "--json").stdout
        assert [step["id"] for step in json.loads(steps)] == [number(4), number(3)]

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["show", "cccc"], 1, "no alert cccc"),
            (["show", "a4d1"], 1, f"several alerts: {OTHER}"),
            (["ack", "bbbb", "--for", "1h"], 1, "no alert bbbb that goes on"),
            (["ack", "a4d1c"], 2, "--for"),
            *((["ack", "a4d1c", "--for", wrong], 2, "366 days at most")
              for wrong in ("2", "h", "0h", "-1h", "1.5h", "2 h", "2y", "367d", "9999999h")),
            (["ack", "a4d1c", "--for", "1h", "--why", "a\nb"], 2, "one line"),
            (["ack", "a4d1c", "--for", "1h", "--why", "x" * 501], 2, "one line"),
            (["list", "--history", "0"], 2, "history"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_done_is_said_in_a_line(
        self, settings: Settings, arguments: list[str], code: int, says: str
    ) -> None:
        some(settings)
        done = invoke(environment_of(settings), "alerts", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert says in done.stderr.splitlines()[-1]

    def test_an_event_cannot_speak_to_the_terminal(self, settings: Settings) -> None:
        evil = "\x1b[2J\x07\nno open alerts"
        causes = [LEVEL["causes"][0] | {"element": evil}]
        commit(settings, [alert(1, sentence=evil, element=evil, causes=causes)])
        for arguments in (["list"], ["list", "--history", "1"], ["show", "a4d1"]):
            text = invoke(environment_of(settings), "alerts", *arguments).stdout
            assert text.replace("\n", "").isprintable()
            assert "\nno open" not in text

    def test_watch_prints_new_steps_until_it_is_interrupted(self, settings: Settings) -> None:
        some(settings)
        process = start_cli(environment_of(settings), "alerts", "watch", "--json")
        assert process.stdout is not None
        try:
            with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
                wait_for_reader(redis)
            commit(settings, [alert(11)], 1)
            assert json.loads(process.stdout.readline()) == alert(11)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=15)
        finally:
            end(process)
        assert (process.returncode, out, err) == (0, "", "")

    def test_redis_is_away(self, settings: Settings) -> None:
        environment = environment_of(settings) | {"VALUETIDE_REDIS_URL": f"redis://{NOWHERE}/0"}
        done = cli(environment, "alerts", "list")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: Redis")


def wait_for_reader(redis: Any) -> None:
    """Wait until somebody waits for entries of a stream."""
    deadline = time.monotonic() + 30
    while not any(one["cmd"] == "xread" for one in redis.client_list()):
        assert time.monotonic() < deadline, "nobody reads"
        time.sleep(0.05)


class NoWorker:
    def readiness(self) -> dict[str, object]:
        return {"ready": True}

    def registry(self) -> CollectorRegistry:
        return CollectorRegistry()


def test_over_http(settings: Settings) -> None:
    some(settings)
    secured = settings.model_copy(update={"http_token": type(settings.redis_url)("token")})

    async def whole() -> None:
        async with Reader(secured) as reader:
            server = HttpServer(secured, NoWorker(), reader)
            await server.start()
            try:
                async with aiohttp.ClientSession(server.address) as session:

                    async def get(path: str, token: str = "token") -> tuple[int, Any]:
                        headers = {"Authorization": f"Bearer {token}"}
                        async with session.get(path, headers=headers) as response:
                            return response.status, await response.json()

                    status, found = await get("/alerts")
                    assert (status, [one["id"] for one in found]) == (
                        200,
                        [number(2), AT_RISK["id"]],
                    )
                    status, found = await get("/alerts?history=2")
                    assert (status, [one["id"] for one in found]) == (200, [number(4), number(3)])
                    status, found = await get(f"/alerts/{ENDED}")
                    assert (status, found["open"], len(found["steps"])) == (200, False, 2)
                    # Beginnings are looked for among those that go on only.
                    status, found = await get("/alerts/bbbb")
                    assert status == 404
                    assert "named whole" in found["error"]
                    status, found = await get("/alerts/a4d1c")
                    assert (status, found["open"], len(found["steps"])) == (200, True, 2)
                    for query in ("history=0", "history=1001", "history=x", "history=", "x=1",
                                  "history=1&x=1", "history=" + "9" * 3_000):  # fmt: skip
                        assert (await get(f"/alerts?{query}"))[0] == 400, query
                    for path, wanted in (("a4d1", 404), ("cccc", 404), ("A4D1", 400), ("*", 400),
                                         ("0" * 17, 400)):  # fmt: skip
                        status, found = await get(f"/alerts/{path}")
                        assert (status, set(found)) == (wanted, {"error"}), path
                    for path in ("/alerts", "/alerts/a4d1c"):
                        assert (await get(path, "wrong"))[0] == 401
            finally:
                await server.stop()

    asyncio.run(whole())
