"""Doors of Kafka and Redis: the right ones open, and each wrong one is refused in a clear line.

What the documentation says is the least that a worker needs is read from there and used.
"""

import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)
from pydantic import SecretStr

from tests.support.doors import Authority, SecureKafka, SecureRedis, Users
from tests.support.pipeline import (
    Facts,
    Pipeline,
    cli,
    end,
    environment_of,
    make_settings,
    start_cli,
)
from valuetide.schemas.topics import TopicNames
from valuetide.streams.local import prepare
from valuetide.streams.settings import Settings

pytestmark = [pytest.mark.servers, pytest.mark.apache]

DOCS = Path(__file__).parents[2] / "docs" / "security.md"
REFUSED_SECONDS = 15.0
"""For a whole command, on a loaded machine; a knock takes 4 s at most."""


@dataclass(frozen=True)
class House:
    """All that a test may want to enter."""

    kafka: SecureKafka
    redis: SecureRedis
    authority: Authority
    other: Authority
    secrets: dict[str, str]
    orders: Path

    def sasl(self, user: str, **more: Any) -> dict[str, Any]:
        return {
            "broker": self.kafka.at("SASLTLS"),
            "broker_security": "sasl_tls",
            "broker_username": user,
            "broker_password": self.secrets[user],
            "broker_ca_file": self.authority.file,
        } | more

    @property
    def tls(self) -> dict[str, Any]:
        return {
            "broker": self.kafka.at("TLS"),
            "broker_security": "tls",
            "broker_ca_file": self.authority.file,
        }

    @property
    def mutual(self) -> dict[str, Any]:
        return self.tls | {
            "broker": self.kafka.at("MUTUAL"),
            "broker_cert_file": self.authority.folder / "client.pem",
            "broker_key_file": self.authority.folder / "client.key",
        }

    @property
    def store(self) -> dict[str, Any]:
        return {
            "redis_url": self.redis.url.replace("redis://", "rediss://"),
            "redis_username": "valuetide",
            "redis_password": self.secrets["redis"],
            "redis_ca_file": self.authority.file,
            "redis_cert_file": self.authority.folder / "client.pem",
            "redis_key_file": self.authority.folder / "client.key",
        }


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("doors")
    authority, other = Authority(folder / "ours"), Authority(folder / "other", "other")
    server = authority.sign("server", "IP:127.0.0.1")
    authority.sign("client")
    other.sign("client")
    words = {name: f"{name}-{secrets.token_hex(8)}" for name in ("plain", "scram", "valuetide")}
    words |= {"redis": f"redis-{secrets.token_hex(8)}"}
    users = Users({"plain": words["plain"]}, {name: words[name] for name in ("scram", "valuetide")})
    (user,) = re.findall(r"^user (valuetide on .*)$", DOCS.read_text(), re.M)
    user = user.replace("PASSWORD", words["redis"])
    orders = folder / "orders.csv"
    orders.write_text("customer_id,occurred_at,amount\nada,2026-01-02,10\nbob,2026-01-03,20\n")
    with (
        SecureKafka(authority, server, users, ("plain", "scram", "CN=client")) as kafka,
        SecureRedis([user], authority, server) as redis,
    ):
        yield House(kafka, redis, authority, other, words, orders)


@pytest.fixture(autouse=True)
def empty_redis(house: House) -> None:
    """Have no state of another test: the documented rights are for the key prefix ``cv`` alone."""
    house.redis.empty()


def pipeline_of(house: House, prefix: str = "cv", **doors: Any) -> Pipeline:
    """Give names of a test's own and a way in; topics are made through the open listener."""
    broker = doors.pop("broker")
    redis_url = doors.pop("redis_url")
    settings = make_settings(broker, redis_url, prefix, log_level="debug", key_prefix="cv", **doors)
    open_door = Settings(
        broker=house.kafka.address, topics=settings.topics, partitions=settings.partitions
    )
    prepare(open_door)
    return Pipeline(settings)


def secrets_in(house: House, text: str) -> list[str]:
    return [name for name, word in house.secrets.items() if word in text]


def send(house: House, pipeline: Pipeline, count: int) -> None:
    """Send orders through the open listener."""
    settings = pipeline.settings
    openly = Settings(
        broker=house.kafka.address, topics=settings.topics, partitions=settings.partitions
    )
    Pipeline(openly, pipeline.sent).send(order(settings.group, number) for number in range(count))


def order(prefix: str, number: int) -> Facts:
    return "orders", {
        "event_id": f"e{number}",
        "customer_id": f"{prefix}-{number % 5}",
        "occurred_at": "2026-01-02T03:04:05Z",
        "order_id": f"o{number}",
        "kind": "placed",
        "amount": 10.0,
        "currency": "EUR",
    }


def worker_wrote_scores(house: House, pipeline: Pipeline) -> bool:
    """Look through the open listener: a worker need not read what it writes."""
    settings = pipeline.settings
    openly = Settings(
        broker=house.kafka.address, topics=settings.topics, partitions=settings.partitions
    )
    return len(Pipeline(openly).messages(settings.topics.scores)) >= 5


def run_worker(house: House, pipeline: Pipeline) -> str:
    """Send events, let a worker fold them, and give what it wrote."""
    send(house, pipeline, 50)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        log = worker.log_path.read_text()
    customers = {name: score["orders"] for name, score in pipeline.state().items()}
    ours = {name: n for name, n in customers.items() if name.startswith(pipeline.settings.group)}
    assert ours == {f"{pipeline.settings.group}-{number}": 10 for number in range(5)}
    assert worker_wrote_scores(house, pipeline)
    return log


WAYS_IN: dict[str, Callable[[House], dict[str, Any]]] = {
    "PLAIN over TLS": lambda house: house.sasl("plain", broker_sasl_mechanism="PLAIN"),
    "SCRAM-SHA-512 over TLS": lambda house: house.sasl("scram"),
    "SCRAM-SHA-256 in the clear": lambda house: {
        "broker": house.kafka.at("SASLPLAIN"),
        "broker_security": "sasl_plaintext",
        "broker_sasl_mechanism": "SCRAM-SHA-256",
        "broker_username": "scram",
        "broker_password": house.secrets["scram"],
    },
    "client certificate": lambda house: house.mutual,
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_worker_with_the_right_credentials_works(
    house: House, fresh_prefix: str, way: str
) -> None:
    doors = WAYS_IN[way](house) | house.store
    log = run_worker(house, pipeline_of(house, fresh_prefix, **doors))
    assert not secrets_in(house, log)


def test_a_worker_works_with_the_least_rights_that_are_documented(
    house: House, fresh_prefix: str
) -> None:
    pipeline = pipeline_of(house, fresh_prefix, **house.sasl("valuetide"), **house.store)
    grant(house, pipeline.settings)
    log = run_worker(house, pipeline)
    assert not secrets_in(house, log)
    environment = environment_for(house, **pipeline_doors(pipeline))
    for command in (["doctor"], ["dlq", "list"], ["top"]):
        done = cli(environment, *command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["topics", "group", "write"])
def test_a_worker_without_a_right_says_so_and_ends(
    house: House, fresh_prefix: str, missing: str
) -> None:
    pipeline = pipeline_of(house, fresh_prefix, **house.sasl("valuetide"), **house.store)
    if missing != "topics":
        leave_out = "--group" if missing == "group" else "--topic scores"
        grant(house, pipeline.settings, leave_out)
    send(house, pipeline, 1)
    done = cli(environment_for(house, **pipeline_doors(pipeline)), "worker")
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    wanted = {"topics": "broker_username", "group": fresh_prefix, "write": "scores"}
    assert wanted[missing] in last, done.stderr
    assert not secrets_in(house, done.stderr)


def grant(house: House, settings: Settings, leave_out: str = "nothing") -> None:
    """Make the ACLs of the documentation, for this test's names."""
    lines = re.findall(r"^kafka-acls\.sh (.*)$", DOCS.read_text(), re.M)
    documented = set(re.findall(r"--topic (\S+)", "\n".join(lines)))
    assert documented == set(TopicNames().model_dump().values())
    acls = []
    for line in lines:
        if leave_out in line:
            continue
        options = re.findall(r"--([a-z-]+)(?: ([^- ]\S*))?", line)
        given: dict[str, list[str]] = {}
        for name, value in options:
            given.setdefault(name, []).append(value)
        kind = "topic" if "topic" in given else "group"
        (name,) = given[kind]
        ours = (
            settings.group if kind == "group" else getattr(settings.topics, name.replace("-", "_"))
        )
        acls += [
            ACL(
                principal=given["allow-principal"][0],
                host="*",
                operation=ACLOperation[operation.upper()],
                permission_type=ACLPermissionType.ALLOW,
                resource_pattern=ResourcePattern(ResourceType[kind.upper()], ours),
            )
            for operation in given["operation"]
        ]
    client = KafkaAdminClient(bootstrap_servers=house.kafka.address)
    try:
        made = client.create_acls(acls)
    finally:
        client.close()
    assert len(made["succeeded"]) == len(acls), made


def environment_for(house: House, **doors: Any) -> dict[str, str]:
    """Give the environment of a command with these doors, at log level debug."""
    return environment_of(Settings(), VALUETIDE_LOG_LEVEL="debug") | {
        f"VALUETIDE_{name.upper()}": str(value) for name, value in doors.items()
    }


def pipeline_doors(pipeline: Pipeline) -> dict[str, Any]:
    """Give the settings of a pipeline that differ from the defaults, secrets in clear."""
    settings = pipeline.settings
    values: dict[str, Any] = {
        name: getattr(settings, name)
        for name, default in Settings()
        if getattr(settings, name) != default and name not in {"topics", "vocabulary"}
    }
    values = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in values.items()
    }
    return values | {"topics": settings.topics.model_dump_json()}


COMMANDS = {
    "worker": ["worker"],
    "topics": ["topics"],
    "topics --create": ["topics", "--create"],
    "doctor": ["doctor"],
    "replay": ["replay", "FILE", "--set", "kind=placed", "--currency", "EUR", "--map"],
    "dlq": ["dlq", "list"],
}


def refused(house: House, doors: dict[str, Any], *command: str) -> str:
    """Run a command that must be refused in time; give its last line."""
    began = time.monotonic()
    done = cli(environment_for(house, **doors), *command)
    took = time.monotonic() - began
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    assert took < REFUSED_SECONDS
    assert not secrets_in(house, text)
    assert "Traceback" not in text
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    if command[0] == "doctor":
        return done.stdout
    if command[0] != "worker":  # which has a log, at level debug
        assert len(done.stderr.splitlines()) == 1, text
    return last


BROKER_FAULTS: dict[str, tuple[Callable[[House], dict[str, Any]], str]] = {
    "wrong password, PLAIN": (
        lambda house: house.sasl("plain", broker_sasl_mechanism="PLAIN", broker_password="wrong"),
        "refuses user and password: look at broker_username, broker_password",
    ),
    "wrong password, SCRAM": (
        lambda house: house.sasl("scram", broker_password="wrong"),
        "refuses user and password: look at broker_username, broker_password",
    ),
    "another's password, SCRAM": (
        lambda house: house.sasl("scram", broker_password=house.secrets["valuetide"]),
        "refuses user and password: look at broker_username, broker_password",
    ),
    "unknown user": (
        lambda house: house.sasl("scram", broker_username="eve"),
        "refuses user and password: look at broker_username, broker_password",
    ),
    "mechanism of another user": (
        lambda house: house.sasl("scram", broker_sasl_mechanism="PLAIN"),
        "broker_sasl_mechanism (PLAIN)",
    ),
    "wrong authority": (
        lambda house: house.tls | {"broker_ca_file": house.other.file},
        "shows a certificate not signed by an authority in broker_ca_file",
    ),
    "the system's authorities": (
        lambda house: house.tls | {"broker_ca_file": ""},
        "shows a certificate not signed by an authority the system trusts: set broker_ca_file",
    ),
    "certificate of another host": (
        lambda house: house.tls | {"broker": house.kafka.at("TLS", "localhost")},
        "shows a certificate for another host name: look at broker",
    ),
    "unknown host": (
        lambda house: house.tls | {"broker": house.kafka.at("TLS", "nowhere.invalid")},
        "the host name is not known: look at broker",
    ),
    "no certificate of ours": (
        lambda house: house.tls | {"broker": house.kafka.at("MUTUAL")},
        "look at broker_cert_file",
    ),
    "certificate by another authority": (
        lambda house: (
            house.mutual
            | {
                "broker_cert_file": house.other.folder / "client.pem",
                "broker_key_file": house.other.folder / "client.key",
            }
        ),
        "look at broker_cert_file",
    ),
    "key of another certificate": (
        lambda house: house.mutual | {"broker_key_file": house.other.folder / "client.key"},
        "broker_key_file",
    ),
    "plaintext to TLS": (
        lambda house: {"broker": house.kafka.at("TLS")},
        "another protocol than broker_security (plaintext): look at broker_security",
    ),
    "plaintext to SASL": (
        lambda house: {"broker": house.kafka.at("SASLPLAIN")},
        "another protocol than broker_security (plaintext): look at broker_security",
    ),
    "TLS to plaintext": (
        lambda house: house.tls | {"broker": house.kafka.address},
        "look at broker_security",
    ),
    "SASL where there is none": (
        lambda house: house.sasl("scram", broker=house.kafka.at("TLS")),
        "wants no user and password there",
    ),
    "sent on to a host that is not known": (
        lambda house: house.tls | {"broker": house.kafka.at("ELSEWHERE")},
        "advertised.listeners",
    ),
}


@pytest.mark.parametrize("fault", BROKER_FAULTS)
def test_each_wrong_way_to_the_broker_is_refused_with_the_setting_to_look_at(
    house: House, fault: str
) -> None:
    doors, wanted = BROKER_FAULTS[fault]
    assert wanted in refused(house, doors(house) | {"redis_url": "redis://127.0.0.1:9/0"}, "topics")


@pytest.mark.parametrize("fault", ["wrong password, SCRAM", "wrong authority", "plaintext to TLS"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_refused_in_the_same_way(house: House, command: str, fault: str) -> None:
    doors, wanted = BROKER_FAULTS[fault]
    arguments = [str(house.orders) if a == "FILE" else a for a in COMMANDS[command]]
    if arguments[-1] == "--map":
        arguments.append("order_id=@id")
    assert wanted in refused(house, doors(house) | house.store, *arguments)


REDIS_FAULTS: dict[str, tuple[Callable[[House], dict[str, Any]], str]] = {
    "wrong password": (lambda house: {"redis_password": "wrong"}, "redis_password"),
    "unknown user": (lambda house: {"redis_username": "eve"}, "redis_username"),
    "no password": (
        lambda house: {"redis_username": "", "redis_password": ""},
        "look at user and password",
    ),
    "wrong authority": (
        lambda house: {"redis_ca_file": house.other.file},
        "shows a certificate not signed by an authority in redis_ca_file",
    ),
    "certificate of another host": (
        lambda house: {"redis_url": f"rediss://localhost:{house.redis.port}/0"},
        "shows a certificate for another host name: look at redis_url",
    ),
    "no certificate of ours": (
        lambda house: {"redis_cert_file": "", "redis_key_file": ""},
        "redis_cert_file",
    ),
    "certificate by another authority": (
        lambda house: {
            "redis_cert_file": house.other.folder / "client.pem",
            "redis_key_file": house.other.folder / "client.key",
        },
        "redis_cert_file",
    ),
    "plaintext to TLS": (
        lambda house: {
            "redis_url": house.redis.url,
            "redis_ca_file": "",
            "redis_cert_file": "",
            "redis_key_file": "",
        },
        "rediss://",
    ),
    "unknown host": (
        lambda house: {"redis_url": f"rediss://nowhere.invalid:{house.redis.port}/0"},
        "the host name is not known: look at redis_url",
    ),
    "TLS to what speaks none": (
        lambda house: {"redis_url": f"rediss://127.0.0.1:{house.kafka.port}/0"},
        "look at redis_url",
    ),
}


@pytest.mark.parametrize("fault", REDIS_FAULTS)
def test_each_wrong_way_to_redis_is_refused_with_the_setting_to_look_at(
    house: House, fresh_prefix: str, fault: str
) -> None:
    doors, wanted = REDIS_FAULTS[fault]
    pipeline = pipeline_of(house, fresh_prefix, **house.sasl("scram"), **house.store)
    given = pipeline_doors(pipeline) | doors(house)
    assert wanted in refused(house, given, "worker")


def test_the_doctor_says_it_of_redis_too(house: House, fresh_prefix: str) -> None:
    pipeline = pipeline_of(house, fresh_prefix, **house.sasl("scram"), **house.store)
    given = pipeline_doors(pipeline) | {"redis_password": "wrong"}
    assert "redis_password" in refused(house, given, "doctor")


def test_a_user_of_redis_without_a_right_is_a_fault_that_names_it(
    house: House, fresh_prefix: str
) -> None:
    pipeline = pipeline_of(house, fresh_prefix, **house.sasl("scram"), **house.store)
    given = pipeline_doors(pipeline) | {"key_prefix": "another"}
    send(house, pipeline, 1)
    done = cli(environment_for(house, **given), "worker")
    assert done.returncode == 1
    assert "docs/security.md" in done.stderr.splitlines()[-1], done.stderr
    assert not secrets_in(house, done.stderr)


def test_a_worker_tells_no_secret_while_its_servers_go_away(
    house: House, fresh_prefix: str
) -> None:
    doors = house.sasl("plain", broker_sasl_mechanism="PLAIN") | house.store
    pipeline = pipeline_of(house, fresh_prefix, **doors)
    environment = environment_for(house, **pipeline_doors(pipeline), retry_seconds="3")
    process = start_cli(environment, "worker")
    try:
        send(house, pipeline, 20)
        pipeline.finish()
        arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
        house.kafka.kill()
        time.sleep(3)
        house.redis.kill()
        process.terminate()
        try:
            out, err = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            end(process)
            out, err = process.communicate()
    finally:
        end(process)
        house.kafka.start()
        house.redis.start()
    assert "worker ready" in err
    assert "Authenticated as plain via PLAIN" in err  # the libraries' own words are among it
    assert not secrets_in(house, arguments + out + err)
