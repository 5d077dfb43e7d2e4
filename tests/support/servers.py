"""The servers of tests, chaos runs and benchmarks: embedded ones, or Apache Kafka and Redis.

Which, the environment variable ``VALUETIDE_TEST_SERVERS`` says: ``embedded`` (the default) or
``apache``. Apache Kafka is one KRaft node, from jars that Maven fetches once into build/kafka/.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from valuetide.schemas.errors import FaultError
from valuetide.streams.embedded import EmbeddedBroker, EmbeddedRedis, kafka_cluster_id
from valuetide.streams.guarded import GuardedServer, free_port

VARIABLE = "VALUETIDE_TEST_SERVERS"
KINDS = ("embedded", "apache")

POM = Path(__file__).with_name("kafka") / "pom.xml"
JARS = Path(__file__).parents[2] / "build" / "kafka"
FETCH_SECONDS = 600
KAFKA_START_SECONDS = 90.0
"""A start takes 2.5 s on two idle cores; a loaded CI machine gets much more."""

JVM = ("-Xms128m", "-Xmx512m", "-XX:-UsePerfData")  # Perf data would stay behind after a kill.
QUICK_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class ApacheKafka(GuardedServer):
    """One node of Apache Kafka, broker and controller in one.

    :meth:`kill` and :meth:`start` bring it back with its data; after :meth:`stop` it is a new one.
    """

    title = "Apache Kafka"

    def __init__(
        self, port: int | None = None, *, start_seconds: float = KAFKA_START_SECONDS
    ) -> None:
        super().__init__(port, start_seconds=start_seconds)
        self.cluster_id = _cluster_id()
        self.jars = kafka_jars()

    def _command(self, folder: Path, port: int) -> Sequence[str]:
        config = folder / "server.properties"
        config.write_text(self._properties(folder, port))
        java = [_program("java", "Java 17 or later"), *JVM, f"-Djava.io.tmpdir={folder}"]
        logging = (
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
        )
        classes = ("-cp", f"{self.jars}/*")
        if not (folder / "data" / "meta.properties").exists():
            # With =, since an id may begin with a dash.
            format_storage = (
                *("format", f"--cluster-id={self.cluster_id}", f"--config={config}"),
                *self._first_data(),
            )
            tool = "kafka.tools.StorageTool"
            self._run_to_end([*java, *QUICK_JVM, *logging, *classes, tool, *format_storage])
        return [*java, *logging, *classes, "kafka.Kafka", str(config)]

    def _properties(self, folder: Path, port: int) -> str:
        return _properties(folder / "data", port, free_port())

    def _first_data(self) -> Sequence[str]:
        """Give arguments for formatting the storage: what is to be there from the beginning."""
        return ()

    def _answers(self, port: int) -> bool:
        return kafka_cluster_id(port) == self.cluster_id


class SystemRedis(EmbeddedRedis):
    """The ``redis-server`` of the system, with the arguments of the embedded one."""

    title = "redis-server"

    def _program(self, folder: Path) -> str:
        return _program("redis-server", "the package redis-server")


def kind_of_servers() -> str:
    """Tell which servers the environment asks for."""
    kind = os.environ.get(VARIABLE, KINDS[0])
    if kind not in KINDS:
        raise FaultError(f"{VARIABLE}: one of {', '.join(KINDS)}, not {kind}")
    return kind


def make_broker(port: int | None = None) -> GuardedServer:
    """Give a broker of the kind in use, not started."""
    return ApacheKafka(port) if kind_of_servers() == "apache" else EmbeddedBroker(port)


def make_redis(port: int | None = None, *, append_only_folder: Path | None = None) -> EmbeddedRedis:
    """Give a Redis of the kind in use, not started."""
    kind = SystemRedis if kind_of_servers() == "apache" else EmbeddedRedis
    return kind(port, append_only_folder=append_only_folder)


@contextmanager
def start_apache_kafka(port: int | None = None) -> Iterator[ApacheKafka]:
    """Run an Apache Kafka for the length of the block, with or without pytest."""
    with ApacheKafka(port) as kafka:
        yield kafka


def kafka_jars() -> Path:
    """Give the folder with Kafka's jars, fetched where the pom has changed or it is not there."""
    jars = JARS / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    if jars.is_dir():
        return jars
    JARS.mkdir(parents=True, exist_ok=True)
    coming = JARS / f".coming-{os.getpid()}"
    try:
        _fetch(coming)
        try:
            coming.rename(jars)
        except OSError:
            if not jars.is_dir():  # Not that another run has just fetched them too.
                raise
    finally:
        shutil.rmtree(coming, ignore_errors=True)
    return jars


def _fetch(folder: Path) -> None:
    result = subprocess.run(
        [
            _program("mvn", "Maven"),
            *("-q", "-B", "-f", str(POM)),
            "dependency:copy-dependencies",
            f"-DoutputDirectory={folder}",
            "-DincludeScope=runtime",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
    )
    if result.returncode:
        raise FaultError(f"Maven could not fetch Apache Kafka's jars:\n{result.stdout[-4_000:]}")


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FaultError(f"{VARIABLE}=apache needs {name} on the PATH: install {package}")
    return path


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _properties(data: Path, port: int, controller_port: int) -> str:
    # A broker that was killed may register again only when its session is over: 9 s by default.
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
"""
