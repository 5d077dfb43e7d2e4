"""The command line as a person meets it: help, exit codes, one line for what is wrong."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from redis import Redis

from tests.support.pipeline import (
    Pipeline,
    Raw,
    cli,
    end,
    environment_of,
    invoke,
    make_pipeline,
    make_settings,
    start_cli,
    wait_until,
)
from tests.support.traffic import traffic
from valuetide.streams.cli import cli as command
from valuetide.streams.guarded import LOOPBACK, free_port
from valuetide.streams.settings import Settings

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

FEW_SECONDS = 15.0
"""For a command that fails; each takes about two on an idle machine."""

VERBS = (
    *("demo", "up", "worker", "replay", "simulate", "topics", "customer"),
    *("top", "model", "alerts", "dlq", "doctor"),
)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")
    assert says in line


def test_a_wrong_redis_address_is_told_without_its_password(pipeline: Pipeline) -> None:
    environment = pipeline.environment | {"VALUETIDE_REDIS_URL": f"http://me:{PASSWORD}@nowhere"}
    done = invoke(environment, "top")
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert "redis_url" in line
    assert PASSWORD not in line


def test_readers_of_a_sound_system(pipeline: Pipeline) -> None:
    """`top`, `customer` and `doctor` before and after there is anything to see."""
    environment = pipeline.environment
    assert invoke(environment, "top").stdout == "no customers yet\n"
    events = traffic(31, 40)
    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    state = pipeline.state()
    listed = json.loads(
        invoke(environment, "top", "--by", "revenue", "--count", "5", "--json").stdout
    )
    revenue = sorted((score["revenue"] for score in state.values()), reverse=True)
    assert [score["revenue"] for score in listed] == revenue[:5]
    table = invoke(environment, "top", "--count", "3")
    best = max(state.values(), key=lambda score: score["profit"])
    assert table.returncode == 0
    assert table.stdout.splitlines()[1].startswith(best["customer_id"])
    wrong = invoke(environment, "top", "--count", "100000")
    assert wrong.returncode == 2
    assert "top_size" in wrong.stderr

    shown = invoke(environment, "customer", best["customer_id"])
    assert shown.returncode == 0
    assert re.search(rf"^revenue +{best['revenue']}$", shown.stdout, re.MULTILINE)
    fails(invoke(environment, "customer", "nobody"), 1, "no customer nobody")

    sound = invoke(environment, "doctor", "--json")
    findings = json.loads(sound.stdout)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert not [finding for finding in findings if finding["state"] == "error"]
    checks = {finding["check"] for finding in findings}
    assert {"versions", "broker", "topics", "redis", "state", "clock", "partitioners"} <= checks

    other = invoke(environment | {"VALUETIDE_HALF_LIFE_DAYS": "30"}, "doctor")
    fails(other, 1, "1 thing to mend")
    assert "half_life_days=90" in other.stdout
    refused = cli(environment | {"VALUETIDE_HALF_LIFE_DAYS": "30"}, "worker")
    assert refused.returncode == 1
    assert "half_life_days=90" in refused.stderr.splitlines()[-1]


def test_doctor_finds_strays_and_says_what_to_do(pipeline: Pipeline) -> None:
    messages = [pipeline.message(facts) for facts in traffic(32, 10)]
    orders = [message for message in messages if message.role == "orders"]
    stray = orders[0]._replace(partition=(orders[0].partition + 1) % 4)
    pipeline.produce([*orders[1:], stray, Raw("orders", 0, None, b"{}")])
    done = invoke(pipeline.environment, "doctor")
    assert done.returncode == 0, "a warning is no error"
    topic = pipeline.settings.topics.orders
    assert f"{topic}: of {len(orders) + 1} records 1 are in another partition" in done.stdout
    assert "1 have no key" in done.stdout
    assert "-> have producers send the customer_id as key and use murmur2" in done.stdout


@contextmanager
def redis_user(settings: Settings) -> Iterator[str]:
    """Give the address of the test's Redis with a user and a password of its own."""
    url = settings.redis_url.get_secret_value()
    with Redis.from_url(url) as client:
        user = settings.key_prefix
        client.execute_command("ACL", "SETUSER", user, "on", f">{PASSWORD}", "~*", "&*", "+@all")
        try:
            yield url.replace("redis://", f"redis://{user}:{PASSWORD}@")
        finally:
            client.execute_command("ACL", "DELUSER", user)


def test_secrets_appear_in_no_output_and_the_token_is_asked_for(
    broker: str, redis_url: str, fresh_prefix: str
) -> None:
    """Neither at the most talkative level, nor in metrics, nor when something fails."""
    plain = make_pipeline(broker, redis_url, fresh_prefix)
    port = free_port()
    with redis_user(plain.settings) as url:
        environment = plain.environment | {
            "VALUETIDE_REDIS_URL": url,
            "VALUETIDE_HTTP_TOKEN": TOKEN,
            "VALUETIDE_HTTP_PORT": str(port),
            "VALUETIDE_LOG_LEVEL": "debug",
        }
        process = start_cli(environment, "worker")
        try:
            wait_until(lambda: fetch(port, "/readyz", TOKEN)[0] == 200, "it is ready")
            assert fetch(port, "/healthz", None)[0] == 200
            for path in ("/readyz", "/metrics", "/customers/ann", "/top"):
                assert fetch(port, path, None)[0] == 401
                assert fetch(port, path, "wrong")[0] == 401
            status, metrics = fetch(port, "/metrics", TOKEN)
            assert status == 200
            with Redis.from_url(redis_url) as client:  # and from now on it is refused
                name = plain.settings.key_prefix
                client.execute_command("ACL", "SETUSER", name, "resetpass", ">changed-meanwhile")
                client.execute_command("CLIENT", "KILL", "USER", name)
            plain.send(traffic(33, 5))
            _, err = process.communicate(timeout=30)
        finally:
            end(process)
        failed = cli(environment, "top")
    assert process.returncode == 1, err
    fails(failed, 1, "Redis")
    for text in (metrics, err, failed.stdout, failed.stderr):
        assert PASSWORD not in text
        assert TOKEN not in text


def fetch(port: int, path: str, token: str | None) -> tuple[int, str]:
    """Ask a worker's HTTP interface; status 0 where nobody listens."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def orders_file(folder: Path) -> Path:
    file = folder / "orders.csv"
    file.write_text(
        "event_id,customer_id,occurred_at,order_id,kind,amount\n"
        "e1,ann,2026-03-01T10:00:00Z,o1,placed,10.50\n"
        "e2,bea,2026-03-02T10:00:00Z,o2,placed,20\n"
        "e3,ann,2026-03-03T10:00:00Z,o3,placed,1.25\n"
    )
    return file


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_works_from_another_terminal_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The line that it prints is all that the other terminal needs."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    folder = tmp_path / "tmp"
    folder.mkdir()
    process = start_cli(bare | {"TMPDIR": str(folder), "VALUETIDE_LOG_LEVEL": "warning"}, "up")
    try:
        assert process.stdout is not None
        line = read_line(process)
        assert line.startswith("export ")
        exported = dict(pair.split("=", 1) for pair in line.split()[1:])
        assert exported.keys() == {"VALUETIDE_BROKER", "VALUETIDE_REDIS_URL"}
        assert read_line(process).startswith("# worker ready, http://127.0.0.1:")
        children = descendants(process.pid)
        assert len(children) >= 4, "two servers and their guards"
        other = bare | exported
        file = orders_file(tmp_path)
        sent = cli(other, "replay", str(file), "--currency", "EUR", "--json")
        assert (sent.returncode, json.loads(sent.stdout)["events"]) == (0, 3), sent.stderr
        wait_until(lambda: cli(other, "customer", "ann").returncode == 0, "ann has a score")
        score = json.loads(cli(other, "customer", "ann", "--json").stdout)
        assert (score["orders"], score["revenue"]) == (2, 11.75)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    finally:
        end(process)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    wait_until(lambda: not any(alive(child) for child in children), "its processes are gone", 10)
    assert not list(folder.iterdir())


def read_line(process: "subprocess.Popen[str]") -> str:
    """Give the next line; where none comes, the test's time limit ends the wait."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def descendants(pid: int) -> list[int]:
    """Give the processes below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return sorted(found)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
