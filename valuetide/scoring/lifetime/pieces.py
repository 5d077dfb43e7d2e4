"""A learner in pieces, so that a commit writes only what a micro-batch changed.

    head        the learner's first 128 bytes, see learner.py
    customers   customers of the shard, decimal: what its parameters weigh when shards are pooled
    00 .. ff    members whose key ends in that byte, sorted by key, 40 bytes each

Keys are hashes, so a piece has 16 of 4,096 members: a single order rewrites 640 bytes and the head,
a thousand orders most of the 164 kB. The pieces depend on the learner alone, not on how they came
to be written.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import BoolArray, IdArray, true_at
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.sample import MEMBER

HEAD: Final = "head"
CUSTOMERS: Final = "customers"
PIECES: Final = 256
MEMBERS: Final = tuple(f"{number:02x}" for number in range(PIECES))
"""Names of the pieces with members."""


class Changes:
    """Which pieces of a learner have changed since they were last taken.

    Parameters
    ----------
    learner
        Watched from now on; ``note`` must be told of each change.

    Examples
    --------
    >>> from valuetide.scoring.lifetime.sample import Orders
    >>> learner = Learner()
    >>> changes = Changes(learner)
    >>> orders = Orders(np.array([7], np.uint64), np.array([3]), np.array([20.0]))
    >>> before = learner.sample.members
    >>> steps = learner.learn(orders)
    >>> changes.note(before, orders.who)
    >>> sorted(map(len, changes.take(customers=1).values()))
    [1, 40, 128]
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._changed: BoolArray = np.zeros(PIECES, np.bool_)
        self._any = False

    def note(self, before: NDArray[np.void], who: IdArray) -> None:
        """Note a change.

        Parameters
        ----------
        before
            The sample's members before it.
        who
            Customers whose orders were taken in or corrected, hashes of their ids.
        """
        sample = self._learner.sample
        # Whose key was never below the threshold was never a member; whoever had to leave has a key
        # at or above the threshold of now.
        keys = sample.keys(who)
        self._changed[(keys[keys < np.uint64(sample.threshold)] & np.uint64(0xFF)).astype(int)] = 1
        gone = before["key"][int(np.searchsorted(before["key"], np.uint64(sample.threshold))) :]
        self._changed[(gone & np.uint64(0xFF)).astype(int)] = 1
        self._any = True

    def take(self, customers: int) -> dict[str, bytes]:
        """Give what changed since the last time, nothing if nothing did."""
        if not self._any:
            return {}
        members = self._learner.sample.members
        last = (members["key"] & np.uint64(0xFF)).astype(np.uint8)
        # Stable: members are sorted by key, and so are those of each piece.
        rewritten = true_at(self._changed[last])
        last = last[rewritten]
        data = np.take(members, rewritten[last.argsort(kind="stable")]).tobytes()
        size = MEMBER.itemsize
        ends = (np.bincount(last, minlength=PIECES).cumsum() * size).tolist()
        pieces = {
            MEMBERS[n]: data[ends[n - 1] if n else 0 : ends[n]]
            for n in true_at(self._changed).tolist()
        }
        self._changed[:] = False
        self._any = False
        return {
            HEAD: self._learner.encode_head(),
            CUSTOMERS: str(customers).encode(),
            **pieces,
        }


def assemble(pieces: Mapping[str, bytes]) -> Learner | None:
    """Learner of which these are the pieces, ``None`` where there are none.

    Raises
    ------
    ValueError
        When they do not fit together.
    """
    if HEAD not in pieces:
        if not pieces.keys().isdisjoint(MEMBERS):
            raise ValueError("learner: pieces without a head")
        return None
    data = b"".join(pieces.get(name, b"") for name in MEMBERS)
    if len(data) % MEMBER.itemsize:
        raise ValueError(f"learner: pieces of {len(data)} bytes")
    members = np.frombuffer(data, MEMBER)
    members = members[np.argsort(members["key"], kind="stable")]
    return Learner.decode(pieces[HEAD] + members.tobytes())
