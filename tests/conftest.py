"""What every test may ask for: servers, started once a session, and names that are its own."""

import secrets
from collections.abc import Iterator

import pytest

from tests.support.servers import kind_of_servers, make_broker, make_redis


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
