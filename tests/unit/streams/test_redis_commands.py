"""Commands reach Redis as redis-py writes them, however many arguments they have."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection

from valuetide.streams.store.redis import LONG_ARGUMENT, MANY_ARGUMENTS, connect

arguments = st.lists(
    st.text(max_size=20)
    | st.binary(max_size=20)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from([b"x" * LONG_ARGUMENT, b"y" * (LONG_ARGUMENT - 1)]),
    max_size=3 * MANY_ARGUMENTS,
)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0"])
@given(arguments=arguments)
def test_commands_are_the_bytes_that_the_client_would_send(url: str, arguments: list[Any]) -> None:
    ours = cast("Any", connect(url)).connection_pool.make_connection()
    command = ["EVALSHA", *arguments]
    assert b"".join(ours.pack_command(*command)) == b"".join(Connection().pack_command(*command))
    many = [["PING"], command]
    assert b"".join(ours.pack_commands(many)) == b"".join(Connection().pack_commands(many))
