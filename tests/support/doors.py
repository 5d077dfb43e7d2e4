"""Servers with doors: an Apache Kafka with SASL, TLS and ACLs, a Redis with users and TLS.

Certificates are made by the ``openssl`` program, with the commands of docs/security.md.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import redis

from tests.support.servers import ApacheKafka, SystemRedis
from valuetide.streams.embedded import EmbeddedRedis
from valuetide.streams.guarded import LOOPBACK, free_port

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
Listener = Literal["SASLTLS", "SASLPLAIN", "MUTUAL", "TLS", "ELSEWHERE"]
LISTENERS: dict[Listener, str] = {
    "SASLTLS": "SASL_SSL",
    "SASLPLAIN": "SASL_PLAINTEXT",
    "MUTUAL": "SSL",
    "TLS": "SSL",
    "ELSEWHERE": "SSL",
}
"""By name the protocol. MUTUAL wants a client's certificate; ELSEWHERE sends its clients on to a
host name that its certificate does not have."""


@dataclass(frozen=True)
class Authority:
    """Signs certificates."""

    folder: Path
    name: str = "authority"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        openssl(
            *("req", "-x509", *KEY, "-subj", f"/CN={self.name}"),
            *("-keyout", str(self.key), "-out", str(self.file)),
        )

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.pem"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    def sign(self, name: str, alternative: str = "") -> "Certificate":
        certificate = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        names = ("-addext", f"subjectAltName={alternative}") if alternative else ()
        openssl(
            *("req", "-x509", *KEY, "-subj", f"/CN={name}", *names),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-CA", str(self.file), "-CAkey", str(self.key)),
            *("-keyout", str(certificate.key), "-out", str(certificate.file)),
        )
        return certificate


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, both PEM."""

    file: Path
    key: Path

    def together(self) -> Path:
        """Give a file with both, which is how Kafka wants them."""
        both = self.file.with_suffix(".both.pem")
        both.write_text(self.key.read_text() + self.file.read_text())
        return both


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Users:
    """Names with passwords, by mechanism."""

    plain: dict[str, str] = field(default_factory=dict)
    scram: dict[str, str] = field(default_factory=dict)


class SecureKafka(ApacheKafka):
    """An Apache Kafka with one listener of each kind, and one without a door for the test itself.

    An authorizer is on. Who comes through the open listener may do all; anybody else what is in
    ``powerful``, or what ACLs allow.
    """

    title = "Apache Kafka with doors"

    def __init__(
        self,
        authority: Authority,
        certificate: Certificate,
        users: Users,
        powerful: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.authority = authority
        self.certificate = certificate
        self.users = users
        self.powerful = powerful
        self.ports = {name: free_port() for name in LISTENERS}

    def at(self, listener: Listener, host: str = LOOPBACK) -> str:
        return f"{host}:{self.ports[listener]}"

    def _first_data(self) -> Sequence[str]:
        return [
            f"--add-scram={mechanism}=[name={name},password={password}]"
            for name, password in self.users.scram.items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        ]

    def _properties(self, folder: Path, port: int) -> str:
        ours = dict(
            line.split("=", 1) for line in super()._properties(folder, port).splitlines() if line
        )
        for name, listener_port in self.ports.items():
            host = "broker.elsewhere.test" if name == "ELSEWHERE" else LOOPBACK
            ours["listeners"] += f",{name}://{LOOPBACK}:{listener_port}"
            ours["advertised.listeners"] += f",{name}://{host}:{listener_port}"
            ours["listener.security.protocol.map"] += f",{name}:{LISTENERS[name]}"
        plain = " ".join(f'user_{name}="{word}"' for name, word in self.users.plain.items())
        modules = "org.apache.kafka.common.security"
        for listener in ("sasltls", "saslplain"):
            at = f"listener.name.{listener}"
            ours[f"{at}.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
            ours[f"{at}.plain.sasl.jaas.config"] = (
                f"{modules}.plain.PlainLoginModule required {plain};"
            )
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                ours[f"{at}.{mechanism}.sasl.jaas.config"] = (
                    f"{modules}.scram.ScramLoginModule required;"
                )
        ours |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificate.together()),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.file),
            "listener.name.mutual.ssl.client.auth": "required",
            "inter.broker.listener.name": "PLAINTEXT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": ";".join(f"User:{name}" for name in ("ANONYMOUS", *self.powerful)),
        }
        return "".join(f"{name}={value}\n" for name, value in ours.items())


class PasswordRedis(EmbeddedRedis):
    """The embedded Redis with a password for its default user."""

    password = ""

    def _command(self, folder: Path, port: int) -> Sequence[str]:
        return [*super()._command(folder, port), "--requirepass", self.password]

    def _answers(self, port: int) -> bool:
        return _process_id(redis.Redis(LOOPBACK, port, password=self.password)) == self.pid


class SecureRedis(SystemRedis):
    """The system's Redis with ACL users and, with certificates, TLS alone.

    Parameters
    ----------
    users
        Lines of an ACL file, what comes after ``user``.
    """

    title = "redis-server with doors"

    def __init__(
        self,
        users: Sequence[str],
        authority: Authority | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        super().__init__()
        self.users = users
        self.authority = authority
        self.certificate = certificate

    def _command(self, folder: Path, port: int) -> Sequence[str]:
        acl = folder / "users.acl"
        acl.write_text(
            "".join(
                f"user {line}\n"
                for line in (
                    "default off",
                    "probe on >probe -@all +info +ping +flushall",
                    *self.users,
                )
            )
        )
        command = [*super()._command(folder, port), "--aclfile", str(acl)]
        if self.authority is None or self.certificate is None:
            return command
        plain = command.index("--port")
        return [
            *command[:plain],
            *("--port", "0", "--tls-port", str(port)),
            *command[plain + 2 :],
            *("--tls-ca-cert-file", str(self.authority.file)),
            *("--tls-cert-file", str(self.certificate.file)),
            *("--tls-key-file", str(self.certificate.key)),
        ]

    def empty(self) -> None:
        """Forget everything."""
        with self._probe(self.port) as client:
            client.flushall()

    def _answers(self, port: int) -> bool:
        return _process_id(self._probe(port)) == self.pid

    def _probe(self, port: int) -> "redis.Redis":
        if self.authority is None or self.certificate is None:
            return redis.Redis(LOOPBACK, port, username="probe", password="probe")
        return redis.Redis(
            LOOPBACK,
            port,
            username="probe",
            password="probe",
            ssl=True,
            ssl_ca_certs=str(self.authority.file),
            ssl_certfile=str(self.certificate.file),
            ssl_keyfile=str(self.certificate.key),
        )


def _process_id(client: "redis.Redis") -> int | None:
    try:
        with client:
            info: Any = client.info("server")
    except (redis.RedisError, OSError):
        return None
    return int(info["process_id"])
