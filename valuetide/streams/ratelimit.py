"""Limits the requests of each client address, in bounded memory: token buckets."""

import math
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

MOST_CLIENTS = 4_096
"""Addresses remembered, about 0.5 MB. The one that asked longest ago is forgotten first, and would
have a full bucket soon anyway."""


class RateLimit:
    """A bucket of tokens per client: each request takes one, and they come back at a rate.

    Parameters
    ----------
    per_second
        Tokens that come back, per second.
    burst
        Size of a bucket, and what a new client has.
    clock
        Gives seconds that never go back.

    Examples
    --------
    >>> now = iter([0.0, 0.0, 0.0, 0.5])
    >>> limit = RateLimit(2.0, 2, lambda: next(now))
    >>> [limit.wait_seconds("10.0.0.1") for _ in range(4)]
    [0.0, 0.0, 0.5, 0.0]
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """Take a token; 0 where there was one, else the seconds until there is one."""
        client = client_of(address)
        now = self._clock()
        tokens, at = self._buckets.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._per_second

    def __len__(self) -> int:
        return len(self._buckets)


def client_of(address: str) -> str:
    """Give whom an address stands for: itself, or its /64 for IPv6, where one client has as many.

    >>> client_of("10.0.0.1"), client_of("2001:db8::1") == client_of("2001:db8::2")
    ('10.0.0.1', True)
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def retry_after(wait_seconds: float) -> str:
    """Give the header ``Retry-After``: whole seconds, at least one."""
    return str(max(1, math.ceil(wait_seconds)))
