"""What a chaos run takes place on: servers behind proxies, workers with a supervisor, the load."""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from tests.chaos.crew import Crew, signal_process
from tests.chaos.proxy import Proxy
from tests.chaos.watch import Watch
from tests.support.pipeline import Pipeline, make_settings
from tests.support.servers import ApacheKafka, SystemRedis
from valuetide.schemas.topics import INPUTS
from valuetide.streams.embedded import EmbeddedBroker, EmbeddedRedis
from valuetide.streams.guarded import GuardedServer
from valuetide.streams.local import prepare

PARTITIONS = 4
CREW = 2
"""Workers in quiet times."""

RETRY_SECONDS = 20.0
SESSION_SECONDS, BRISK_SESSION_SECONDS = 3.0, 2.0
"""Timeout of a session, and of a rebalance: the embedded broker waits out every one of these in
full. A short run goes with the briefer one, as the integration tests do."""

REDIS_START_SECONDS = 60.0
SETTINGS: dict[str, Any] = {
    "partitions": PARTITIONS,
    "retry_seconds": RETRY_SECONDS,
    "fetch_max_wait_ms": 50,
    # Customers are scored again all the time, beside the events.
    "refresh_seconds": 60.0,
    "sweep_rate": 500.0,
    # No bucket closes, so that all sums are there to be compared at the end.
    "series": {"lateness_seconds": 30 * 86_400.0},
    # Many alerts: whoever grows a little.
    "customer_alerts": {"least_percentile": 0.0, "growth_factor": 1.2, "per_day": 2_000},
    "log_level": "info",
}


class ProxiedEmbeddedBroker(EmbeddedBroker):
    """An embedded broker that sends its clients to the proxy."""

    def __init__(self, advertised: int) -> None:
        super().__init__()
        self._advertised = advertised

    def _command(self, folder: Path, port: int) -> Sequence[str]:
        name = "--advertised-listener-url="
        return [
            f"{name}tcp://127.0.0.1:{self._advertised}" if part.startswith(name) else part
            for part in super()._command(folder, port)
        ]


class ProxiedApacheKafka(ApacheKafka):
    """An Apache Kafka that sends its clients to the proxy."""

    def __init__(self, advertised: int) -> None:
        super().__init__()
        self._advertised = advertised

    def _properties(self, folder: Path, port: int) -> str:
        name = "advertised.listeners=PLAINTEXT://127.0.0.1:"
        return (
            super()._properties(folder, port).replace(f"{name}{port}", f"{name}{self._advertised}")
        )


class Stage:
    """Servers, proxies, crew, load and watch of one run.

    Parameters
    ----------
    kind
        ``embedded`` or ``apache``.
    seed
        Of the load, and of all chances.
    events_per_second
        Of the load.
    brisk
        Whether sessions and rebalances are to be shorter.
    """

    def __init__(
        self, kind: str, seed: int, events_per_second: float, *, brisk: bool = False
    ) -> None:
        self.session_seconds = BRISK_SESSION_SECONDS if brisk else SESSION_SECONDS
        self.kind, self.seed, self.rate = kind, seed, events_per_second
        self.chance = random.Random(f"{seed}/faults")
        self._stack = ExitStack()
        self._redis_number = 0
        self._load: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Stage":
        try:
            self._enter()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _enter(self) -> None:
        stack = self._stack
        self.folder = Path(tempfile.mkdtemp(prefix="valuetide-chaos-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.broker_proxy = stack.enter_context(Proxy())
        self.redis_proxy = stack.enter_context(Proxy())
        kinds = {"embedded": ProxiedEmbeddedBroker, "apache": ProxiedApacheKafka}
        self.broker: GuardedServer = stack.enter_context(kinds[self.kind](self.broker_proxy.port))
        self.broker_proxy.target = self.broker.port
        self.redis = self.new_redis()
        stack.callback(self._stop_redis)
        self.redis.start()
        self.configure_redis()
        self.redis_proxy.target = self.redis.port
        self.settings = make_settings(
            f"127.0.0.1:{self.broker_proxy.port}",
            f"redis://127.0.0.1:{self.redis_proxy.port}/0",
            f"chaos{self.seed}",
            session_timeout_seconds=self.session_seconds,
            heartbeat_seconds=self.session_seconds / 5,
            rebalance_timeout_seconds=self.session_seconds,
            **SETTINGS,
        )
        prepare(self.settings)
        self.watch = stack.enter_context(
            Watch(
                lambda: self.redis.port,
                self.append_only_folder,
                self.settings.key_prefix,
                PARTITIONS,
            )
        )
        self.crew = stack.enter_context(Crew(self.settings))

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _stop_redis(self) -> None:
        self.redis.stop()  # the one that is there at the end

    def new_redis(self) -> EmbeddedRedis:
        """Give another Redis with an append-only file of its own, not started."""
        self._redis_number += 1
        folder = self.folder / f"redis-{self._redis_number}"
        folder.mkdir()
        kinds = {"embedded": EmbeddedRedis, "apache": SystemRedis}
        server = kinds[self.kind](append_only_folder=folder, start_seconds=REDIS_START_SECONDS)
        server.grace_seconds = 30.0
        return server

    def append_only_folder(self) -> Path:
        folder = self.redis.append_only_folder
        assert folder is not None
        return folder

    def configure_redis(self) -> None:
        # The file of a run is short enough; a rewrite would hide what the last second was.
        self.redis_client().config_set("auto-aof-rewrite-percentage", 0)

    def redis_client(self) -> redis.Redis:
        """Give a client that goes past the proxy."""
        return redis.Redis("127.0.0.1", self.redis.port, socket_timeout=30)

    @property
    def pipeline(self) -> Pipeline:
        """Give what looks at topics and state, past the proxy where it can."""
        url = SecretStr(f"redis://127.0.0.1:{self.redis.port}/0")
        return Pipeline(self.settings.model_copy(update={"redis_url": url}))

    def start_load(self) -> None:
        config = self.folder / "load.json"
        topics = {role: getattr(self.settings.topics, role) for role in INPUTS}
        config.write_text(
            json.dumps(
                {
                    "seed": self.seed,
                    "events_per_second": self.rate,
                    "topics": topics,
                    "partitions": PARTITIONS,
                    "broker": self.settings.broker,
                    "log": str(self.folder / "acknowledged.jsonl"),
                    "summary": str(self.folder / "sent.json"),
                }
            )
        )
        self._load_log = (self.folder / "load.log").open("wb")
        self._stack.callback(self._load_log.close)
        self._load = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.load", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=self._load_log,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
        )
        self._stack.callback(self._end_load)

    def _end_load(self) -> None:
        if self._load is not None and self._load.poll() is None:
            self._load.kill()
            self._load.wait()

    def check_load(self) -> None:
        """Make sure that the producer is at work."""
        assert self._load is not None
        if self._load.poll() is not None:
            raise AssertionError(f"the producer ended: {self.load_log()}")

    def load_log(self) -> str:
        return (self.folder / "load.log").read_text(errors="replace")[-4_000:]

    def stop_load(self, timeout_seconds: float = 120.0) -> dict[str, Any]:
        """Have the producer end its cohort and get all acknowledged; gives what it sent."""
        self.check_load()
        assert self._load is not None
        self._load.send_signal(signal.SIGTERM)
        code = self._load.wait(timeout_seconds)
        if code:
            raise AssertionError(f"the producer failed: {self.load_log()}")
        sent: dict[str, Any] = json.loads((self.folder / "sent.json").read_text())
        assert sent["acknowledged"] == sent["messages"], sent
        return sent

    def acknowledged_ends(self) -> dict[tuple[str, int], int]:
        """Give the offset after the last acknowledged event of each partition."""
        ends: dict[tuple[str, int], int] = {}
        for line in (self.folder / "acknowledged.jsonl").read_text().splitlines():
            _, role, partition, offset, count, _ = json.loads(line)
            ends[role, partition] = max(ends.get((role, partition), 0), offset + count)
        return ends

    @contextlib.contextmanager
    def frozen(self, server: GuardedServer) -> Iterator[None]:
        """Stop a server's process for the length of the block."""
        signal_process(server, signal.SIGSTOP)
        try:
            yield
        finally:
            signal_process(server, signal.SIGCONT)
