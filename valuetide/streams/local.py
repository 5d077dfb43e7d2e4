"""A worker on this machine beside the embedded services: its settings, and as a child process."""

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from sys import executable
from typing import Any

from pydantic import SecretStr

from valuetide.streams.admin import admin_client, check_topics, create_topics, topic_states
from valuetide.streams.embedded import EmbeddedServices
from valuetide.streams.guarded import LOOPBACK, GuardedServer
from valuetide.streams.settings import Settings, load_settings
from valuetide.streams.webhooks.hook import REVEAL

WORKER_GRACE_SECONDS = 15.0
LOCAL: dict[str, Any] = {
    # The embedded broker answers a waiting fetch on a timer of this length, and its first join
    # takes as long as a rebalance may.
    "fetch_max_wait_ms": 5,
    "rebalance_timeout_seconds": 2.0,
    "session_timeout_seconds": 3.0,
    # Whether a child is ready we ask a hundred times a second.
    "http_rate_per_second": 1_000.0,
    "http_burst": 1_000,
}

NO_DOORS = {"broker_security": "plaintext"} | dict.fromkeys(
    (
        "broker_username",
        "broker_password",
        "broker_ca_file",
        "broker_cert_file",
        "broker_key_file",
        "redis_username",
        "redis_password",
        "redis_ca_file",
        "redis_cert_file",
        "redis_key_file",
    ),
    "",
)
"""The embedded services have none, whatever the environment says of the real ones."""


def local_settings(services: EmbeddedServices, **overrides: Any) -> Settings:
    """Give settings for the embedded services; the environment decides the rest."""
    return load_settings(
        broker=services.broker,
        redis_url=services.redis_url,
        **{**LOCAL, **NO_DOORS, **overrides},
    )


def prepare(settings: Settings) -> None:
    """Create the topics and check them."""
    with admin_client(settings) as client:
        create_topics(client, settings)
        check_topics(topic_states(client, settings))


class LocalWorker(GuardedServer):
    """A worker as a child process that never outlives us.

    Parameters
    ----------
    settings
        What it is to use; its HTTP port is chosen here.
    """

    title = "worker"

    def __init__(self, settings: Settings, *, start_seconds: float = 60.0) -> None:
        super().__init__(start_seconds=start_seconds)
        self.grace_seconds = WORKER_GRACE_SECONDS
        self._settings = settings

    def _command(self, folder: Path, port: int) -> Sequence[str]:
        config = folder / "valuetide.toml"
        config.touch(mode=0o600)
        config.write_text(_toml(self._settings, port), encoding="utf-8")
        return [executable, "-m", "valuetide", "--config", str(config), "worker"]

    def _answers(self, port: int) -> bool:
        try:
            status, text = self.get("/readyz", port)
        except (OSError, http.client.HTTPException):
            return False
        # One that a flood of dead letters has paused at once has started; waiting changes nothing.
        return status == http.HTTPStatus.OK or bool(json.loads(text).get("paused"))

    def get(self, path: str, port: int | None = None) -> tuple[int, str]:
        """Ask its HTTP interface; gives status and body."""
        connection = http.client.HTTPConnection(LOOPBACK, port or self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{key} = {_toml_value(one)}" for key, one in value.items() if one is not None)
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value)


def _toml(settings: Settings, port: int) -> str:
    """Write settings as TOML: JSON's scalars, strings and lists are TOML's."""
    values = settings.model_dump(mode="json", exclude={"http_host", "http_token"}, context=REVEAL)
    for name in values:
        if isinstance(secret := getattr(settings, name), SecretStr):
            values[name] = secret.get_secret_value()
    values["http_port"] = port
    lines: list[str] = []

    def table(name: str, entries: dict[str, Any]) -> None:
        nested = {key: value for key, value in entries.items() if isinstance(value, dict)}
        if name:
            lines.append(f"[{name}]")
        for key, value in entries.items():
            if value is not None and key not in nested:
                lines.append(f"{key} = {_toml_value(value)}")
        for key, value in nested.items():
            table(f"{name}.{key}" if name else key, value)

    table("", values)
    return "\n".join(lines) + "\n"
