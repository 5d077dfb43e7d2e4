"""From settings to what the clients of Kafka and Redis are told about doors: one place for all.

=================  ==========================  ============================
``broker_security``  on the wire                 who we are
=================  ==========================  ============================
plaintext            readable                    nobody
tls                  encrypted, host verified    the certificate, if there is one
sasl_plaintext       readable                    user and password
sasl_tls             encrypted, host verified    user and password
=================  ==========================  ============================

Where there is TLS, the server's certificate and its host name are always verified. There is no
switch against that: whoever signs the servers' certificates goes into ``broker_ca_file`` and
``redis_ca_file``.
"""

import ssl
from pathlib import Path
from typing import Any

from redis import asyncio as aioredis

from valuetide.schemas.errors import FaultError
from valuetide.streams.settings import Settings
from valuetide.streams.store.redis import connect

PROTOCOLS = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}
"""Kafka's names for what the setting ``broker_security`` says."""


class DoorFileError(FaultError):
    """A certificate or a key cannot be used; the text names the setting and the file."""


def broker_arguments(settings: Settings) -> dict[str, Any]:
    """Give what every client of aiokafka is told: address, TLS and credentials.

    Parameters
    ----------
    settings
        The settings.

    Returns
    -------
    dict
        Keyword arguments of consumers, producers and admin clients.

    Raises
    ------
    DoorFileError
        When a certificate or key cannot be used.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": [address.strip() for address in settings.broker.split(",")],
        "security_protocol": PROTOCOLS[settings.broker_security],
    }
    if settings.broker_security.endswith("tls"):
        arguments["ssl_context"] = tls_context("broker", *_files(settings, "broker"))
    if settings.broker_security.startswith("sasl") and settings.broker_password is not None:
        arguments["sasl_mechanism"] = settings.broker_sasl_mechanism
        arguments["sasl_plain_username"] = settings.broker_username
        arguments["sasl_plain_password"] = settings.broker_password.get_secret_value()
    return arguments


def redis_arguments(settings: Settings) -> dict[str, Any]:
    """Give what a client of redis-py is told beside the address: credentials and TLS.

    Raises
    ------
    DoorFileError
        When a certificate or key cannot be used.
    """
    arguments: dict[str, Any] = {}
    if settings.redis_password is not None:
        arguments["username"] = settings.redis_username
        arguments["password"] = settings.redis_password.get_secret_value()
    if settings.redis_url.get_secret_value().startswith("rediss://"):
        authority, certificate, key = _files(settings, "redis")
        tls_context("redis", authority, certificate, key)  # redis-py would say less clearly why
        arguments |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            "ssl_ca_certs": _text(authority),
            "ssl_certfile": _text(certificate),
            "ssl_keyfile": _text(key),
        }
    return arguments


def redis_client(settings: Settings, **arguments: Any) -> "aioredis.Redis":
    """Make a client of the Redis in the settings; it connects when it is first used.

    Parameters
    ----------
    settings
        Name address, credentials and certificates.
    arguments
        More for redis-py, for example time limits.
    """
    return connect(
        settings.redis_url.get_secret_value(), **{**redis_arguments(settings), **arguments}
    )


def tls_context(
    door: str, authority: Path | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext:
    """Make a context that verifies the server and its host name, TLS 1.2 or later.

    Parameters
    ----------
    door
        ``broker`` or ``redis``: the first part of the settings' names, for messages.
    authority
        Who may have signed the server's certificate; ``None``: those that the system trusts.
    certificate, key
        Ours, in PEM form; the key may be in the certificate's file.

    Raises
    ------
    DoorFileError
        When a file is missing, is no certificate or key, or the two do not fit.
    """
    if authority is not None:
        _readable(f"{door}_ca_file", authority)
    try:
        context = ssl.create_default_context(cafile=_text(authority))
    except (ssl.SSLError, OSError) as error:
        raise DoorFileError(f"{door}_ca_file: {authority} holds no PEM certificate") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is None:
        return context
    _readable(f"{door}_cert_file", certificate)
    if key is not None:
        _readable(f"{door}_key_file", key)
    name, file = (f"{door}_cert_file", certificate) if key is None else (f"{door}_key_file", key)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _EncryptedKeyError as error:
        raise DoorFileError(
            f"{name}: the key in {file} has a passphrase; give one without, mode 0600"
        ) from error
    except (ssl.SSLError, OSError) as error:
        raise DoorFileError(
            f"{name}: {file} holds no PEM key that belongs to the certificate in "
            f"{door}_cert_file ({getattr(error, 'reason', None) or 'not PEM'})"
        ) from error
    return context


class _EncryptedKeyError(Exception):
    pass


def _no_passphrase() -> str:
    # Without this, OpenSSL asks on the terminal, and a service waits for ever.
    raise _EncryptedKeyError


def _files(settings: Settings, door: str) -> tuple[Path | None, Path | None, Path | None]:
    authority, certificate, key = (
        getattr(settings, f"{door}_{kind}_file") for kind in ("ca", "cert", "key")
    )
    return authority, certificate, key


def _readable(name: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise DoorFileError(f"{name}: {file}: {error.strerror or error}") from error


def _text(file: Path | None) -> str | None:
    return None if file is None else str(file)
