"""What the containers run, run as plain processes with the environment of the compose file."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.pipeline import (
    Pipeline,
    cli,
    end,
    environment_of,
    make_settings,
    metric_in,
    start_cli,
    wait_until,
)
from tests.support.traffic import traffic
from valuetide.streams.guarded import LOOPBACK, free_port

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
OURS = {name: one for name, one in COMPOSE["services"].items() if "build" in one}
WORKERS = [name for name, one in OURS.items() if one["command"] == ["worker"]]
PROMETHEUS = ROOT / "deploy" / "prometheus"
TOKEN = "0123456789abcdef"


def health_check() -> list[str]:
    """Give the image's health check, with this Python."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", dockerfile, re.MULTILINE)
    python, *arguments = json.loads(command)
    assert python == "python"
    return [sys.executable, *arguments]


def healthy(environment: dict[str, str]) -> bool:
    check = subprocess.run(
        health_check(), env=environment, capture_output=True, timeout=30, check=False
    )
    return check.returncode == 0


def environment_for(name: str, pipeline: Pipeline, port: int) -> dict[str, str]:
    """Give a service's environment, its servers and its address being those of the test.

    The names of topics, group and keys are the test's own too; the rest is as the file says.
    """
    own = ("PATH", "HOME", "LANG", "TMPDIR")
    environment = {name: os.environ[name] for name in own if name in os.environ}
    environment |= OURS[name]["environment"]
    assert "VALUETIDE_BROKER" in environment
    settings = pipeline.settings
    for variable, value in environment_of(settings).items():
        if variable.removeprefix("VALUETIDE_") in ("TOPICS", "GROUP", "KEY_PREFIX", "BROKER"):
            environment[variable] = value
    environment["VALUETIDE_REDIS_URL"] = settings.redis_url.get_secret_value()
    if "VALUETIDE_HTTP_PORT" in environment:
        environment["VALUETIDE_HTTP_TOKEN"] = TOKEN
        environment["VALUETIDE_HTTP_PORT"] = str(port)
        environment["VALUETIDE_HTTP_HOST"] = LOOPBACK
    # Quick on the embedded broker, whose first member waits for half a session.
    environment["VALUETIDE_SESSION_TIMEOUT_SECONDS"] = "2"
    environment["VALUETIDE_HEARTBEAT_SECONDS"] = "0.4"
    environment["VALUETIDE_REBALANCE_TIMEOUT_SECONDS"] = "2"
    return environment


def get(port: int, path: str, token: str | None = TOKEN) -> str:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=5) as response:
        text: str = response.read().decode()
    return text


@contextmanager
def prometheus(folder: Path, targets: list[int]) -> Iterator[int]:
    """Run Prometheus with our configuration; targets, token and rules' place are the test's."""
    program = shutil.which("prometheus")
    if program is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("prometheus is not installed: apt-get install prometheus")
        pytest.skip("prometheus is not installed")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    (job,) = config["scrape_configs"]
    named = job["static_configs"][0]["targets"]
    ports = {OURS[name]["environment"]["VALUETIDE_HTTP_PORT"] for name in WORKERS}
    assert {target.partition(":")[0] for target in named} == set(WORKERS)
    assert {target.partition(":")[2] for target in named} == ports
    job["static_configs"][0]["targets"] = [f"{LOOPBACK}:{port}" for port in targets]
    token = folder / "token"
    token.write_text(TOKEN)
    job["authorization"]["credentials_file"] = str(token)
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={LOOPBACK}:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield port
        except BaseException as error:
            error.add_note((folder / "log").read_text()[-4_000:])
            raise
        finally:
            end(process)


def ask(port: int, path: str) -> Any:
    try:
        return json.loads(get(port, path, None))["data"]
    except OSError:
        return {}


def test_the_services_run_as_plain_processes_and_prometheus_sees_them(
    broker: str, redis_url: str, fresh_prefix: str, tmp_path: Path
) -> None:
    assert set(OURS) == {"topics", *WORKERS}
    assert len(WORKERS) == 2
    pipeline = Pipeline(make_settings(broker, redis_url, fresh_prefix))
    topics = environment_for("topics", pipeline, 0)
    for _ in range(2):
        made = cli(topics, *OURS["topics"]["command"])
        assert (made.returncode, made.stderr) == (0, "")

    ports = {name: free_port() for name in WORKERS}
    environments = {name: environment_for(name, pipeline, ports[name]) for name in WORKERS}
    assert not healthy(environments[WORKERS[0]])
    processes = {}
    try:
        for name in WORKERS:
            processes[name] = start_cli(environments[name], *OURS[name]["command"])
        for name in WORKERS:
            wait_until(lambda: healthy(environments[name]), f"{name} is healthy")  # noqa: B023
        wait_until(lambda: shards(ports.values()) == [2, 2], "each has half of the shards")
        pipeline.send(traffic(41, 50))
        pipeline.finish()
        with prometheus(tmp_path, list(ports.values())) as server:
            wait_until(
                lambda: (
                    [t["health"] for t in ask(server, "/api/v1/targets").get("activeTargets", ())]
                    == ["up", "up"]
                ),
                "both targets are up",
            )
            query = "/api/v1/query?query=sum(valuetide_events_total)"
            events = str(pipeline.sent.total())
            wait_until(
                lambda: health(ask(server, "/api/v1/targets")) == ["up", "up"],
                "both targets are up",
            )
            query = "/api/v1/query?query=sum(valuetide_events_total)"
            events = str(pipeline.sent.total())
            wait_until(
                lambda: [r["value"][1] for r in ask(server, query).get("result", ())] == [events],
                "the events are counted",
            )
            rules = ask(server, "/api/v1/rules")["groups"]
            assert all(rule["health"] in ("ok", "unknown") for g in rules for rule in g["rules"])
        for process in processes.values():
            process.terminate()
        for name, process in processes.items():
            _, err = process.communicate(timeout=30)
            assert process.returncode == 0, f"{name}: {err}"
            assert TOKEN not in err
            assert not healthy(environments[name])
    finally:
        for process in processes.values():
            end(process)


def health(answer: Any) -> list[str]:
    return [target["health"] for target in answer.get("activeTargets", ())]


def shards(ports: Any) -> list[float]:
    return [metric_in(get(port, "/metrics"), "valuetide_shards") for port in ports]
