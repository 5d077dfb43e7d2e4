"""A TCP proxy between clients and one server, with everything that can go wrong with a network.

It also sees what goes by, and can kill a client at a chosen moment of its own conversation: before
a request has left, with half of it sent, or when it was carried out and the answer is on its way.
Or it stops the client there, and holds the request back for as long as it is told to.
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from valuetide.streams.guarded import LOOPBACK, free_port

CHUNK_BYTES = 64 * 1024
JOIN_GROUP, SYNC_GROUP = 11, 14
"""Kafka's numbers of the requests by which a group's member takes part in a rebalance."""

Moment = Literal["before", "inside", "after", "held"]
T = TypeVar("T")


@dataclass(eq=False)
class Trap:
    """Kills the client whose request matches, or stops it.

    Attributes
    ----------
    matches
        Tells whether bytes on their way to the server begin the request.
    moment
        ``before``: nothing of it reaches the server; ``inside``: half of the bytes do; ``after``:
        it is carried out, and the server's answer is not passed on; ``held``: the client is
        stopped, not killed, and its request waits in the proxy until ``released`` is set.
    victims
        Ids of the processes that may be killed or stopped.
    sprung_at
        When it was, by ``time.monotonic()``; 0 until then.
    request, answer
        What began the request, and the server's answer to one that was held.
    """

    matches: Callable[[bytes], bool]
    moment: Moment
    victims: frozenset[int]
    sprung_at: float = 0.0
    pid: int = 0
    seen_bytes: int = 0
    request: bytes = b""
    answer: bytes = b""
    sprung: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)

    def kill(self, pid: int, seen_bytes: int) -> None:
        self._spring(pid, seen_bytes, signal.SIGKILL)

    def stop(self, pid: int, request: bytes) -> None:
        self.request = request
        self._spring(pid, len(request), signal.SIGSTOP)

    def take_answer(self, answer: bytes) -> None:
        self.answer = answer
        self.answered.set()

    def _spring(self, pid: int, seen_bytes: int, number: signal.Signals) -> None:
        os.kill(pid, number)
        self.sprung_at, self.pid, self.seen_bytes = time.monotonic(), pid, seen_bytes
        self.sprung.set()


class _Link:
    """One connection of a client, and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.client_port: int = client.get_extra_info("peername")[1]
        self.condemned: tuple[Trap, int, int] | None = None
        self.held: Trap | None = None
        self.awaited: Trap | None = None

    def cut(self) -> None:
        """End both sides by a reset."""
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError, RuntimeError):
                writer.transport.abort()


class Proxy:
    """Passes bytes on between clients and a server on loopback, in a thread of its own.

    Parameters
    ----------
    target
        The server's port; may be changed, which is for new connections.
    """

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.port = free_port()
        self.delay_seconds = 0.0
        self.joins: list[float] = []
        self.syncs: list[float] = []
        """When a JoinGroup went by, and when a SyncGroup did."""
        self._truncations = 0
        self._truncated = 0
        self._trap: Trap | None = None
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *exception: object) -> None:
        self._call(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def cut(self) -> int:
        """Cut all connections; how many there were."""
        return self._call(self._cut())

    @contextlib.contextmanager
    def refusing(self) -> Iterator[int]:
        """Refuse connections for the length of the block, and cut those there are."""
        cut = self._call(self._refuse())
        try:
            yield cut
        finally:
            self._call(self._listen())

    @contextlib.contextmanager
    def delaying(self, seconds: float) -> Iterator[None]:
        """Hold back every piece of data, both ways, for the length of the block."""
        self.delay_seconds = seconds
        try:
            yield
        finally:
            self.delay_seconds = 0.0

    def truncate(self, count: int, timeout_seconds: float) -> int:
        """Cut the next connections in the middle of what they carry; how many were."""
        self._truncated, self._truncations = 0, count
        deadline = time.monotonic() + timeout_seconds
        while self._truncations and time.monotonic() < deadline:
            time.sleep(0.02)
        self._truncations = 0
        return self._truncated

    def set_trap(self, trap: Trap, timeout_seconds: float) -> bool:
        """Wait until a trap has sprung; whether it has."""
        self.arm(trap)
        try:
            return trap.sprung.wait(timeout_seconds)
        finally:
            self.arm(None)

    def arm(self, trap: Trap | None) -> None:
        """Lay a trap, or take it away."""
        self._trap = trap

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, LOOPBACK, self.port, limit=4 * CHUNK_BYTES
        )

    async def _refuse(self) -> int:
        if self._server is not None:
            self._server.close()
            self._server = None
        return await self._cut()

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up, down = await asyncio.open_connection(LOOPBACK, self.target, limit=4 * CHUNK_BYTES)
        except OSError:
            writer.transport.abort()
            return
        for each in (writer, down):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(writer, down)
        self._links.add(link)
        try:
            pumps = [
                asyncio.ensure_future(self._pump(link, reader, down, upward=True)),
                asyncio.ensure_future(self._pump(link, up, writer, upward=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._links.discard(link)
            for each in (writer, down):
                each.close()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upward: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if upward and is_request(data, JOIN_GROUP):
                    self.joins.append(time.monotonic())
                if upward and is_request(data, SYNC_GROUP):
                    self.syncs.append(time.monotonic())
                if upward and self._trap is not None:
                    data = self._snap(link, data)
                    if link.held is not None:
                        await self._hold(link, link.held)
                elif not upward and link.awaited is not None:
                    link.awaited.take_answer(data)
                    link.awaited = None
                elif not upward and link.condemned is not None:
                    trap, pid, seen = link.condemned
                    trap.kill(pid, seen)
                    data = b""
                if self._truncations and len(data) > 1:
                    self._truncations -= 1
                    self._truncated += 1
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    data = b""
                if not data:
                    link.cut()
                    return
                writer.write(data)
                await writer.drain()

    async def _hold(self, link: _Link, trap: Trap) -> None:
        await asyncio.to_thread(trap.released.wait)
        link.held, link.awaited = None, trap

    def _snap(self, link: _Link, data: bytes) -> bytes:
        """Give what of the bytes is to be passed on when a trap may have sprung."""
        trap = self._trap
        if trap is None or not trap.matches(data):
            return data
        pid = process_behind(link.client_port, self.port, trap.victims)
        if pid is None:
            return data
        self._trap = None
        if trap.moment == "after":
            link.condemned = (trap, pid, len(data))
            return data
        if trap.moment == "held":
            link.held = trap
            trap.stop(pid, data)
            return data
        if trap.moment == "inside":
            link.server.write(data[: len(data) // 2])
        trap.kill(pid, len(data))
        return b""


def is_request(data: bytes, number: int) -> bool:
    """Tell whether bytes are one whole request of Kafka's protocol of that kind."""
    return (
        data[4:6] == number.to_bytes(2, "big")
        and len(data) > 8
        and int.from_bytes(data[:4], "big") == len(data) - 4
    )


def process_behind(client_port: int, server_port: int, pids: frozenset[int]) -> int | None:
    """Tell which of our processes has the connection from one loopback port to another."""
    local, remote = f"0100007F:{client_port:04X}", f"0100007F:{server_port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == local and fields[2] == remote:
            wanted = f"socket:[{fields[9]}]"
            break
    else:
        return None
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(entry.readlink()) == wanted:
                        return pid
    return None
