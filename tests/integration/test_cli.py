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
    "demo",
    "up",
    "worker",
    "replay",
    "simulate",
    "topics",
    "customer",
    "top",
    "model",
    "alerts",
    "dlq",
    "doctor",
)
PASSWORD = "hunter2-hunter2"
TOKEN = "a-token-that-nobody-may-see"


def paths_of(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths = [path]
    for name, one in group.commands.items():
        paths += paths_of(one, (*path, name)) if isinstance(one, click.Group) else [(*path, name)]
    return paths


COMMANDS = paths_of(command)


def test_all_the_verbs_are_there() -> None:
    assert set(VERBS) <= set(command.commands)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "valuetide")
def test_help_teaches(path: tuple[str, ...]) -> None:
    """Every command says what it does, and every verb shows how."""
    result = CliRunner().invoke(command, [*path, "--help"], prog_name="valuetide")
    assert result.exit_code == 0
    text = result.output
    lines = text.splitlines()
    assert lines[0].startswith(" ".join(("Usage: valuetide", *path)))
    assert len(lines[2].split()) >= 4, "a sentence"
    if len(path) == 1:
        assert any("valuetide " in line for line in lines[2:]), "an example"
    short = CliRunner().invoke(command, [*path, "-h"], prog_name="valuetide")
    assert short.output == text


def fails(done: "subprocess.CompletedProcess[str]", code: int, *says: str) -> None:
    """Make sure that a command ended with one clear line on stderr, and that it says so."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    for text in says:
        assert text in line


@pytest.mark.parametrize(
    "arguments",
    [("worker",), ("topics",), ("dlq", "list"), ("doctor",)],
    ids=" ".join,
)
def test_the_broker_is_away(redis_url: str, fresh_prefix: str, arguments: tuple[str, ...]) -> None:
    broker = f"{LOOPBACK}:{free_port()}"
    environment = environment_of(make_settings(broker, redis_url, fresh_prefix))
    started = time.monotonic()
    done = cli(environment, *arguments)
    assert time.monotonic() - started < FEW_SECONDS
    if arguments == ("doctor",):
        fails(done, 1, "to mend")
        assert f"ERROR    broker: no Kafka broker answers at {broker}" in done.stdout
        assert "-> start Kafka, or set VALUETIDE_BROKER" in done.stdout
        assert "ok       redis: " in done.stdout
    else:
        fails(done, 1, broker, "VALUETIDE_BROKER")


def test_a_replay_says_when_the_broker_is_away(
    redis_url: str, fresh_prefix: str, tmp_path: Path
) -> None:
    file = orders_file(tmp_path)
    settings = make_settings(f"{LOOPBACK}:{free_port()}", redis_url, fresh_prefix)
    started = time.monotonic()
    done = cli(environment_of(settings), "replay", str(file), "--currency", "EUR")
    assert time.monotonic() - started < FEW_SECONDS
    fails(done, 1, settings.broker)


@pytest.mark.parametrize(
    "arguments",
    [("worker",), ("customer", "ann"), ("top",), ("doctor",)],
    ids=" ".join,
)
def test_redis_is_away_and_its_password_stays_secret(
    pipeline: Pipeline, arguments: tuple[str, ...]
) -> None:
    address = f"{LOOPBACK}:{free_port()}"
    url = f"redis://user:{PASSWORD}@{address}/0"
    started = time.monotonic()
    done = cli(pipeline.environment | {"VALUETIDE_REDIS_URL": url}, *arguments)
    assert time.monotonic() - started < FEW_SECONDS
    if arguments == ("doctor",):
        fails(done, 1, "1 thing to mend")
        assert "ERROR    redis: " in done.stdout
        assert "VALUETIDE_REDIS_URL=redis://" in done.stdout
    elif arguments == ("worker",):
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "Redis" in done.stderr.splitlines()[-1]
    else:
        fails(done, 1, "Redis")
    assert PASSWORD not in done.stdout + done.stderr


def test_topics_are_created_once_and_shown(broker: str, redis_url: str, fresh_prefix: str) -> None:
    settings = make_settings(broker, redis_url, fresh_prefix, partitions=3)
    environment = environment_of(settings)
    names = settings.topics.model_dump()
    absent = invoke(environment, "topics")
    fails(absent, 1, *names.values(), "valuetide topics --create")
    assert absent.stdout.count(" absent ") == len(names)
    fails(cli(environment, "worker"), 1, "valuetide topics --create")
    sick = invoke(environment, "doctor")
    fails(sick, 1, "1 thing to mend")
    assert "-> run `valuetide topics --create`" in sick.stdout

    made = invoke(environment, "topics", "--create")
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.count("3 partitions (created)") == len(names)
    again = invoke(environment, "topics", "--create", "--json")
    assert (again.returncode, again.stderr) == (0, "")
    shown = {topic["topic"]: topic for topic in json.loads(again.stdout)}
    assert shown.keys() == set(names.values())
    assert all(topic["partitions"] == 3 and not topic["created"] for topic in shown.values())
    assert shown[names["scores"]]["direction"] == "out"
    assert shown[names["scores"]]["config"]["cleanup.policy"] == "compact"

    other = environment | {"VALUETIDE_PARTITIONS": "5"}
    fails(invoke(other, "topics"), 1, "the settings say 5", f"{names['orders']} has 3")
    fails(cli(other, "worker"), 1, "VALUETIDE_PARTITIONS")
    sick = invoke(other, "doctor")
    fails(sick, 1, "to mend")
    assert f"{names['orders']} has 3 partitions" in sick.stdout
    assert "-> give all topics the same number" in sick.stdout


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("VALUETIDE_PARTITIONS", "many", "partitions"),
        ("VALUETIDE_PARTITIONS", "0", "partitions"),
        ("VALUETIDE_HTTP_HOST", "0.0.0.0", "http_token"),
        ("VALUETIDE_LOG_LEVEL", "loud", "log_level"),
        ("VALUETIDE_VOCABULARY__BASE_CURRENCY", "euro", "vocabulary.base_currency"),
        ("VALUETIDE_HEARTBEAT_SECONDS", "9", "heartbeat_seconds"),
        ("VALUETIDE_CONFIG", "/nonexistent.toml", "/nonexistent.toml"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    result = CliRunner().invoke(command, ["topics"])
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

    half_life = {"VALUETIDE_HALF_LIFE_DAYS": "30"}
    for verb in (("top",), ("customer", best["customer_id"]), ("model",)):
        fails(invoke(environment | half_life, *verb), 1, "half_life_days=90")
        dollars = invoke(environment | {"VALUETIDE_VOCABULARY__BASE_CURRENCY": "USD"}, *verb)
        assert dollars.returncode == 0
        assert "USD" not in dollars.stdout
    assert "money in EUR" in table.stdout
    assert "EUR (clv_365d)" in dollars.stdout

    other = invoke(environment | half_life, "doctor")
    fails(other, 1, "1 thing to mend")
    assert "half_life_days=90" in other.stdout
    refused = cli(environment | half_life, "worker")
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
