"""What every test may ask for: servers, started once a session, and names that are its own."""

import secrets
import signal
from collections.abc import Iterator

import pytest

from tests.support.servers import kind_of_servers, make_broker, make_redis


def pytest_configure() -> None:
    """Let programs that tests start hear Ctrl-C.

    A shell has what runs in the background ignore it, and that is passed on to every child.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the embedded servers cannot do; ``make test-kafka`` runs it."""
    if kind_of_servers() == "apache":
        return
    out = [item for item in items if item.get_closest_marker("apache")]
    if out:
        items[:] = [item for item in items if not item.get_closest_marker("apache")]
        config.hook.pytest_deselected(items=out)


def pytest_report_header() -> str:
    kind = kind_of_servers()
    return f"servers: {kind}" + ("" if kind == "apache" else "; tests marked apache are left out")


@pytest.fixture(scope="session")
def servers_kind() -> str:
    """``embedded`` or ``apache``, for what differs between them."""
    return kind_of_servers()


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """``host:port`` of a broker for the whole session; use fresh names for topics and groups."""
    with make_broker() as server:
        yield server.address


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """``redis://host:port/0`` of a Redis for the whole session; use a fresh key prefix."""
    with make_redis() as server:
        yield server.url


@pytest.fixture
def fresh_prefix() -> str:
    """Short string that no other test has: for topics, groups and keys."""
    return f"t{secrets.token_hex(4)}"
