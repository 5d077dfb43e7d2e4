"""No secret in anything that is written or shown, and of customers no more than is said.

Each test knows every secret and every customer, lets things go wrong, and looks through all output.
"""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.doors import PasswordRedis
from tests.support.pipeline import (
    Facts,
    Pipeline,
    cli,
    end,
    environment_of,
    make_settings,
    start_cli,
    wait_until,
)
from tests.support.servers import make_broker
from valuetide.streams.guarded import LOOPBACK, GuardedServer, free_port
from valuetide.streams.local import prepare
from valuetide.streams.settings import Settings

pytestmark = pytest.mark.servers

AWAY_SECONDS = 2.0


@dataclass
class Scene:
    """A pipeline behind a password and a token, with servers of its own, and what is secret."""

    pipeline: Pipeline
    broker: GuardedServer | None
    redis: PasswordRedis
    redis_password: str
    token: str
    text: str
    customer: str
    port: int

    @property
    def secrets(self) -> list[str]:
        return [self.redis_password, self.token, self.text]

    def environment(self, **more: str) -> dict[str, str]:
        return (
            environment_of(self.pipeline.settings)
            | {
                "VALUETIDE_REDIS_URL": f"redis://:{self.redis_password}@{self.redis.address}/0",
                "VALUETIDE_HTTP_TOKEN": self.token,
                "VALUETIDE_HTTP_PORT": str(self.port),
            }
            | {f"VALUETIDE_{name.upper()}": value for name, value in more.items()}
        )

    def get(self, path: str, token: str | None = None) -> tuple[int, str]:
        connection = HTTPConnection(LOOPBACK, self.port, timeout=10)
        try:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self.get("/readyz", self.token)[0] == 200
        except OSError:
            return False

    def send(self) -> None:
        """Send what is good and what is not, with the customer and the free text in all of it."""
        self.pipeline.send([event(self, number) for number in range(20)])
        home = self.pipeline.home(self.customer)
        key = self.customer.encode()
        for value in (b"{", *(json.dumps(wrong).encode() for wrong in wrong_events(self))):
            message = self.pipeline.message(event(self, 0))._replace(
                partition=home, key=key, value=value
            )
            self.pipeline.produce([message])


def event(scene: Scene, number: int) -> Facts:
    base = {
        "event_id": f"e{number}",
        "customer_id": scene.customer,
        "occurred_at": "2026-01-02T03:04:05Z",
    }
    if number % 2:
        return "feedback", base | {
            "kind": "csat", "score": 4, "scale": [1, 5], "source": "survey", "text": scene.text,
        }  # fmt: skip
    return "orders", base | {
        "order_id": f"o{number}", "kind": "placed", "amount": 10.0, "currency": "EUR",
    }  # fmt: skip


def wrong_events(scene: Scene) -> Iterator[dict[str, object]]:
    good = event(scene, 1)[1]
    yield good | {"score": scene.text}
    yield good | {"kind": scene.text}
    yield good | {"occurred_at": scene.text}
    yield good | {"attributes": {scene.text: scene.text}}
    yield {"customer_id": scene.customer, "text": scene.text}


@pytest.fixture
def scene(broker: str, fresh_prefix: str, request: pytest.FixtureRequest) -> Iterator[Scene]:
    password = f"pw-{secrets.token_hex(8)}"
    redis = PasswordRedis()
    redis.password = password
    own = "broker away" in request.node.name  # that test kills it
    with make_broker() if own else nullcontext() as mortal, redis:
        url = f"redis://:{password}@{redis.address}/0"
        settings = make_settings(
            mortal.address if mortal else broker,
            url,
            fresh_prefix,
            log_level="debug",
            retry_seconds=AWAY_SECONDS,
        )
        prepare(settings)
        yield Scene(
            Pipeline(settings),
            mortal,
            redis,
            password,
            f"token-{secrets.token_hex(8)}",
            f"free text {secrets.token_hex(8)}",
            f"customer-{secrets.token_hex(8)}",
            free_port(),
        )


def found(scene: Scene, text: str, *more: str) -> list[str]:
    return [word for word in (*scene.secrets, *more) if word in text]


def outcome(process: "subprocess.Popen[str]", seconds: float = 15.0) -> str:
    """Give all that it wrote. That it ends in time is another test's concern."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        out, err = process.communicate()
    return out + err


@pytest.mark.parametrize("fault", ["redis away", "broker away", "redis password changed"])
@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_worker_tells_no_secret_whatever_goes_wrong(scene: Scene, fault: str, level: str) -> None:
    process = start_cli(scene.environment(log_level=level), "worker")
    try:
        wait_until(scene.ready, "the worker is ready")
        arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
        scene.send()
        scene.pipeline.finish()
        shown = []
        for token in (None, "wrong", scene.token):
            for path in ("/healthz", "/readyz", "/metrics", "/top", f"/customers/{scene.customer}"):
                status, body = scene.get(path, token)
                assert token == scene.token or path == "/healthz" or status == 401
                assert scene.customer not in body or token == scene.token
                assert not found(scene, body)
                shown.append(body)
        assert any(scene.customer in body for body in shown)
        metrics = scene.get("/metrics", scene.token)[1]
        assert not found(scene, metrics, scene.customer, scene.redis_password)
        assert "valuetide_" in metrics
        if fault == "redis away":
            scene.redis.kill()
        elif fault == "broker away":
            assert scene.broker is not None
            scene.broker.kill()
        elif fault == "redis password changed":
            change_password(scene)
        for _ in range(5):  # errors come out by HTTP, too
            try:
                for path in ("/top", f"/customers/{scene.customer}", "/readyz"):
                    assert not found(scene, scene.get(path, scene.token)[1])
            except OSError:
                break
        time.sleep(AWAY_SECONDS)
        process.terminate()
        text = outcome(process)
    finally:
        end(process)
    assert not found(scene, arguments)
    assert not found(scene, text)
    assert "worker ready" in text
    if level == "info":
        assert scene.customer not in text


def change_password(scene: Scene) -> None:
    import redis

    client = redis.Redis(LOOPBACK, scene.redis.port, password=scene.redis_password)
    with client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"redis_url": "redis://:wrong-{word}@{redis}/0"},
        {"redis_url": "redis://:{word}@{redis}/0", "redis_password": "{word}"},
        {"redis_url": "redis://:{word}@nowhere.invalid:1/0"},
        {"redis_url": "redis://:{word}@{redis}:x/0"},
        {"redis_url": "rediss://:{word}@{redis}/0"},
        {"redis_url": "redis://:{word}@{redis}/99"},
        {"broker": "127.0.0.1:9"},
        {"broker_password": "{word}"},
        {"broker_security": "sasl_plaintext", "broker_username": "u", "broker_password": "{word}"},
        {"http_port": "70000", "redis_password": "{word}"},
        {"redis_url": '["{word}"]'},
    ],
)
def test_no_command_tells_a_secret_when_it_is_refused(scene: Scene, wrong: dict[str, str]) -> None:
    given = {
        name: value.format(word=scene.redis_password, redis=scene.redis.address)
        for name, value in wrong.items()
    }
    environment = scene.environment(**given)
    others = [["doctor"], ["topics"]] if "broker_security" in wrong else [["top"]]
    for command in (["worker"], *others):
        done = cli(environment, *command)
        text = done.stdout + done.stderr
        assert not found(scene, text)
        assert "Traceback" not in text
        if command == ["worker"]:
            assert done.returncode in {1, 2}
            assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_help_shows_no_setting_of_the_environment(scene: Scene) -> None:
    environment = scene.environment()
    commands = ["worker", "topics", "doctor", "replay", "dlq", "up", "demo", "top", "customer"]
    for command in ([], *([name] for name in commands)):
        done = cli(environment, *command, "--help")
        assert done.returncode == 0
        assert not found(scene, done.stdout + done.stderr)


def test_no_command_takes_a_secret_as_an_argument() -> None:
    from click import Group

    from valuetide.streams.cli import cli as commands

    def options(group: Group) -> Iterator[str]:
        for command in group.commands.values():
            if isinstance(command, Group):
                yield from options(command)
            yield from (one for parameter in command.params for one in parameter.opts)

    secret = [name for name, field in Settings.model_fields.items() if "Secret" in str(field)]
    assert len(secret) == 4
    named = {f"--{name.replace('_', '-')}" for name in secret}
    assert not named & set(options(commands))
