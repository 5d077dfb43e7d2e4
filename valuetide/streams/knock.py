"""Knocks at the doors of Kafka and Redis, and says in one line why one does not open.

The clients retry, write what they see to the log and forget the cause; what they raise in the end
names no setting. A knock is one connection with all that the settings say, given up after
:data:`KNOCK_SECONDS`. Two kinds of failure come out of it: :class:`DoorShutError`, which only a
person can mend, and :class:`BrokerAwayError` or ``StoreUnavailableError``, which may pass.
"""

import asyncio
import socket
import ssl
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiokafka.conn import AIOKafkaConnection, collect_hosts
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from valuetide.schemas.errors import FaultError, TransientError, ValuetideError
from valuetide.streams.connections import broker_arguments, redis_client
from valuetide.streams.settings import Settings
from valuetide.streams.store.interface import StoreUnavailableError

KNOCK_SECONDS = 4.0
"""A server that is there answers in milliseconds; one behind a slow network within a second."""

CLOSE_SECONDS = 1.0
"""For a connection to end; nobody waits longer for a politeness."""

MOST_ADVERTISED = 3
"""Brokers to try at the addresses that they give to clients; one that opens is enough."""

OTHER_HOST = frozenset({62, 64})
"""OpenSSL's codes for a certificate of another host name and of another IP address."""


class DoorShutError(FaultError):
    """A server refuses us; the text names the setting to look at, and no secret."""


class BrokerAwayError(TransientError):
    """No broker answers at the configured address."""


async def knock_at_broker(settings: Settings) -> None:
    """Make sure that a broker lets us in, at the address in the settings and at its own.

    Raises
    ------
    DoorShutError
        When TLS or the credentials do not fit.
    BrokerAwayError
        When no broker answers.
    """
    arguments = broker_arguments(settings)
    addresses = [(host, port) for host, port, _ in collect_hosts(arguments["bootstrap_servers"])]
    advertised = await _first_open(settings, arguments, addresses)
    if not advertised or set(advertised) & set(addresses):
        return  # at least one of them is where we have just been let in
    others = advertised[:MOST_ADVERTISED]
    try:
        await _first_open(settings, arguments, others)
    except ValuetideError as error:
        names = ", ".join(f"{host}:{port}" for host, port in others)
        raise type(error)(
            f"the broker at {settings.broker} sends its clients on to {names}, and there: {error}. "
            "Its advertised.listeners must be reachable from here by that name."
        ) from error


def knock_at_broker_and_wait(settings: Settings) -> None:
    """Do the same for callers that are no coroutines."""
    with ThreadPoolExecutor(1) as thread:  # the caller's own may have a loop that runs
        thread.submit(asyncio.run, knock_at_broker(settings)).result()


async def knock_at_redis(settings: Settings) -> None:
    """Make sure that Redis lets us in.

    Raises
    ------
    DoorShutError
        When TLS or the credentials do not fit.
    StoreUnavailableError
        When no Redis answers.
    """
    client = redis_client(
        settings,
        socket_connect_timeout=KNOCK_SECONDS,
        socket_timeout=KNOCK_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            await client.ping()
    except (redis_errors.RedisError, OSError) as error:
        raise _redis_trouble(settings, error) from error
    finally:
        await client.aclose()


async def _first_open(
    settings: Settings, arguments: dict[str, Any], addresses: list[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Give the addresses that the first broker to let us in tells; all are tried at once."""
    knocks = [
        asyncio.ensure_future(_at_one(settings, arguments, host, port)) for host, port in addresses
    ]
    troubles: list[ValuetideError] = []
    try:
        for knock in asyncio.as_completed(knocks):
            try:
                return await knock
            except ValuetideError as error:
                troubles.append(error)
    finally:
        for one in knocks:
            one.cancel()
        await asyncio.gather(*knocks, return_exceptions=True)
    shut = [error for error in troubles if isinstance(error, FaultError)]
    raise (shut or troubles)[0]


async def _at_one(
    settings: Settings, arguments: dict[str, Any], host: str, port: int
) -> list[tuple[str, int]]:
    rest = {name: value for name, value in arguments.items() if name != "bootstrap_servers"}
    connection = AIOKafkaConnection(
        host, port, client_id="valuetide", request_timeout_ms=int(KNOCK_SECONDS * 1000), **rest
    )
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            await connection.connect()
            # An empty list: which topics there are is nobody's business here.
            answer = await connection.send(MetadataRequest([]))
            return [(broker[1], broker[2]) for broker in answer.brokers]
    except (OSError, KafkaError, ValueError, struct.error) as error:
        raise _broker_trouble(settings, f"{host}:{port}", error) from error
    finally:
        await _close(connection)


async def _close(connection: AIOKafkaConnection) -> None:
    connection.close()
    if connection._protocol is None:
        return  # it has never been open
    # Nobody else fetches the error with which TLS may have ended, and asyncio would complain.
    closed = connection._protocol._get_close_waiter(None)
    await asyncio.wait([closed], timeout=CLOSE_SECONDS)
    if closed.done() and not closed.cancelled():
        closed.exception()


def _broker_trouble(  # noqa: PLR0911 - a table of causes
    settings: Settings, place: str, error: BaseException
) -> ValuetideError:
    """Say why a broker does not let us in, and which setting to look at."""
    security = settings.broker_security
    start = f"Kafka at {place}"
    causes = list(_causes(error))
    if any(isinstance(cause, SaslAuthenticationFailed) for cause in causes):
        return DoorShutError(
            f"{start} refuses user and password: look at broker_username, broker_password and "
            f"broker_sasl_mechanism ({settings.broker_sasl_mechanism})"
        )
    for cause in causes:
        if isinstance(cause, UnsupportedSaslMechanismError):
            return DoorShutError(
                f"{start} does not take {settings.broker_sasl_mechanism}: "
                "look at broker_sasl_mechanism"
            )
        if isinstance(cause, IllegalSaslStateError):
            return DoorShutError(
                f"{start} wants no user and password there, or not in this way: "
                f"look at broker_security ({security}) and the port in broker"
            )
        if isinstance(cause, ssl.SSLError):
            return _tls_trouble(start, "broker", settings.broker_ca_file is not None, cause)
        if isinstance(cause, socket.gaierror):
            return BrokerAwayError(f"{start}: the host name is not known: look at broker")
    if isinstance(error, ConnectionRefusedError) or (
        isinstance(error, OSError) and not isinstance(error, (TimeoutError, ConnectionError))
    ):
        return BrokerAwayError(
            f"no Kafka broker answers at {place}: start one, or set VALUETIDE_BROKER"
        )
    if isinstance(error, (KafkaConnectionError, ConnectionError)):
        return DoorShutError(
            f"{start} hangs up on us: its port is for another protocol than broker_security "
            f"({security}){_about_certificate(settings)}"
        )
    if isinstance(error, TimeoutError):
        return BrokerAwayError(
            f"no Kafka broker answers at {place} within {KNOCK_SECONDS:g} s: start one, or set "
            f"VALUETIDE_BROKER; look at broker_security ({security}) too"
        )
    return DoorShutError(
        f"{start} answers with what is not Kafka's protocol as broker_security ({security}) has "
        f"it ({type(error).__name__}): look at broker and broker_security"
    )


def _about_certificate(settings: Settings) -> str:
    if not settings.broker_security.endswith("tls"):
        return ": look at broker_security"
    if settings.broker_cert_file is None:
        return ", or wants a client's certificate: look at broker_security and broker_cert_file"
    return ", or does not trust our certificate: look at broker_security and broker_cert_file"


def _redis_trouble(  # noqa: PLR0911 - a table of causes
    settings: Settings, error: BaseException
) -> ValuetideError:
    url = settings.redis_url.get_secret_value()
    with_tls = url.startswith("rediss://")
    for cause in _causes(error):
        if isinstance(cause, (redis_errors.AuthenticationError, redis_errors.NoPermissionError)):
            return DoorShutError(
                "Redis refuses us: look at user and password, in redis_url or redis_username and "
                "redis_password"
            )
        if isinstance(cause, ssl.SSLError):
            return _tls_trouble("Redis", "redis", settings.redis_ca_file is not None, cause)
        if isinstance(cause, socket.gaierror):
            return StoreUnavailableError("Redis: the host name is not known: look at redis_url")
        if isinstance(cause, redis_errors.ResponseError):
            # Of an answer only the first word is repeated: it is the kind of the error.
            kind = str(cause).partition(" ")[0]
            return DoorShutError(
                f"Redis refuses us ({kind}): look at user, password and database in redis_url"
            )
    if isinstance(error, (TimeoutError, redis_errors.TimeoutError)):
        protocol = "rediss:// where it speaks no TLS" if with_tls else "redis:// where it wants TLS"
        return StoreUnavailableError(
            f"Redis does not answer within {KNOCK_SECONDS:g} s: look at redis_url; {protocol} "
            "looks like this, too"
        )
    refused = any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))
    if not refused and isinstance(error, redis_errors.ConnectionError):
        hint = (
            "it speaks no TLS, or wants a client's certificate (redis_cert_file)"
            if with_tls
            else "it may want TLS (rediss:// in redis_url)"
        )
        return DoorShutError(f"Redis hangs up on us: {hint}; look at redis_url")
    return StoreUnavailableError("no Redis answers: start one, or look at redis_url")


def _tls_trouble(start: str, door: str, own_authority: bool, error: ssl.SSLError) -> DoorShutError:
    """Say what is wrong between two who speak TLS, or one who does not."""
    url = "broker" if door == "broker" else "redis_url"
    security = "broker_security" if door == "broker" else "redis_url"
    reason = (error.reason or "").replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in OTHER_HOST:
            return DoorShutError(
                f"{start} shows a certificate for another host name: look at {url}, which must "
                "name the host as its certificate does"
            )
        whose = f"in {door}_ca_file" if own_authority else f"the system trusts: set {door}_ca_file"
        return DoorShutError(
            f"{start} shows a certificate not signed by an authority {whose} "
            f"({error.verify_message})"
        )
    if "alert" in reason:
        return DoorShutError(
            f"{start} does not accept us by TLS ({reason}): look at {door}_cert_file and "
            f"{door}_key_file"
        )
    return DoorShutError(f"{start} does not speak TLS ({reason}): look at {security}")


def _causes(error: BaseException | None) -> "list[BaseException]":
    """Give an error and what it came from, outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
