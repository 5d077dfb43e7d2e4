"""What was learned of signals in pieces, so that a commit writes only what a micro-batch changed.

    evidence                      the head, see evidence_learner.py
    evidence:00 .. evidence:3f    members whose key ends in those six bits, sorted by key

A piece has 16 of 1,024 members, 1,280 bytes. Without anything learned every piece is empty.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from valuetide.scoring.lifetime.evidence_learner import MEMBER, Evidence

HEAD: Final = "evidence"
PIECES: Final = 64
_NAMES: Final = tuple(f"evidence:{number:02x}" for number in range(PIECES))


class EvidencePieces:
    """The pieces as they were last written.

    Parameters
    ----------
    pieces
        What is written, those of other learners among them.

    Examples
    --------
    >>> evidence = Evidence()
    >>> evidence.fold_orders(np.array([7], np.uint64), np.array([3]))
    >>> written = EvidencePieces({})
    >>> sorted(map(len, written.changes(evidence).values()))
    [80, 804]
    >>> written.changes(evidence)
    {}
    """

    def __init__(self, pieces: Mapping[str, bytes]) -> None:
        self._written = {name: pieces.get(name, b"") for name in (HEAD, *_NAMES)}

    def changes(self, evidence: Evidence | None) -> dict[str, bytes]:
        """Give the pieces that are not what was last written; from now on they are."""
        now = _pieces(evidence) if evidence else dict.fromkeys((HEAD, *_NAMES), b"")
        changed = {name: data for name, data in now.items() if data != self._written[name]}
        self._written = now
        return changed


def assemble_evidence(pieces: Mapping[str, bytes]) -> Evidence | None:
    """What was learned of signals, ``None`` where there is nothing.

    Raises
    ------
    ValueError
        When the pieces do not fit together.
    """
    head, data = pieces.get(HEAD, b""), b"".join(pieces.get(name, b"") for name in _NAMES)
    if not head:
        if data:
            raise ValueError("evidence: pieces without a head")
        return None
    if len(data) % MEMBER.itemsize:
        raise ValueError(f"evidence: pieces of {len(data)} bytes")
    members = np.frombuffer(data, MEMBER)
    return Evidence.decode(head + members[np.argsort(members["key"], kind="stable")].tobytes())


def _pieces(evidence: Evidence) -> dict[str, bytes]:
    members, size = evidence.members, MEMBER.itemsize
    last = (members["key"] & np.uint64(PIECES - 1)).astype(np.int64)
    data = members[np.argsort(last, kind="stable")].tobytes()
    ends = (np.cumsum(np.bincount(last, minlength=PIECES)) * size).tolist()
    bounds = zip(_NAMES, [0, *ends[:-1]], ends, strict=True)
    return {HEAD: evidence.encode_head()} | {name: data[a:b] for name, a, b in bounds}
