"""Newton's method over the samples of all shards, of which none sees another's customers.

    bytes of an expansion, little endian
      0  <u2 layout version, 1    2  <u2 0    4  <u4 members of the sample
      8  of purchases: 4 <f8 where, 4 <f8 slope, 10 <f8 curvature, the lower triangle by rows
    152  of spend: 3 <f8 where, 3 <f8 slope, 6 <f8 curvature

A log-likelihood of all customers is a sum, and so are its slope and its curvature. Each shard gives
those of its sample at the parameters that all shards score with when it settles; added up they make
the quadratic picture of the whole, whose maximum is the step that one learner with everybody in its
sample would make. So it converges as Newton's method does, from settling to settling, while what a
shard shares is 248 bytes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from valuetide.scoring.arrays import FloatArray

PIECE: Final = "expansion"
"""Name of the piece of a shard's model that holds it."""
LAYOUT: Final = 1
_HEAD: Final = struct.Struct("<HHI")
_SIZES: Final = (4, 3)
# Farther from the average of the shards' parameters, in a logarithm, the picture is not trusted.
_FAR: Final = 1.0


@dataclass(frozen=True, slots=True)
class Quadratic:
    """A log-likelihood near some parameters.

    Attributes
    ----------
    at
        Logarithms of the parameters, (d,).
    slope
        First derivatives there, (d,).
    curvature
        Second derivatives there, negated, (d, d).
    """

    at: FloatArray
    slope: FloatArray
    curvature: FloatArray


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a shard shares of its sample.

    Attributes
    ----------
    members
        Customers whose likelihood it is.
    purchases, spend
        Of both models, without the prior.
    """

    members: int
    purchases: Quadratic
    spend: Quadratic

    def encode(self) -> bytes:
        """Bytes from which ``decode`` makes the same."""
        parts = [
            np.concatenate([one.at, one.slope, one.curvature[np.tril_indices(one.at.size)]])
            for one in (self.purchases, self.spend)
        ]
        return _HEAD.pack(LAYOUT, 0, self.members) + np.concatenate(parts).astype("<f8").tobytes()

    @classmethod
    def decode(cls, blob: bytes) -> "Expansion":
        """Expansion of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version or a wrong number of bytes.
        """
        lengths = [2 * d + d * (d + 1) // 2 for d in _SIZES]
        if len(blob) != _HEAD.size + 8 * sum(lengths):
            raise ValueError(f"expansion: {len(blob)} bytes")
        layout, _, members = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"expansion: layout {layout}, this release reads {LAYOUT}")
        numbers = np.frombuffer(blob, "<f8", offset=_HEAD.size).astype(np.float64)
        purchases, spend = (
            _unpacked(part, d)
            for part, d in zip(np.split(numbers, lengths[:1]), _SIZES, strict=True)
        )
        return cls(members, purchases, spend)


def _unpacked(numbers: FloatArray, size: int) -> Quadratic:
    lower = np.zeros((size, size))
    lower[np.tril_indices(size)] = numbers[2 * size :]
    return Quadratic(
        numbers[:size], numbers[size : 2 * size], lower + lower.T - np.diag(lower.diagonal())
    )


def joint_maximum(
    parts: Sequence[Quadratic],
    weights: Sequence[float],
    mean: FloatArray,
    sd: FloatArray,
    near: FloatArray,
) -> FloatArray:
    """Where the posterior of all shards together is highest, (d,).

    Parameters
    ----------
    parts
        One a shard.
    weights
        Customers for whom each member of a shard's sample stands.
    mean, sd
        Of the prior, (d,); it counts once.
    near
        The average of the shards' parameters, (d,), which is given where the maximum is far from
        it, as with the first few orders.

    Notes
    -----
    Where the sum of the pictures has no maximum this is a step uphill from the middle of where they
    were made: Newton's with the curvature's absolute value.

    References
    ----------
    Dauphin et al. (2014), Identifying and attacking the saddle point problem.

    Examples
    --------
    >>> one, two = (Quadratic(np.zeros(1), np.array([s]), np.eye(1)) for s in (0.5, 1.0))
    >>> joint_maximum([one, two], [1.0, 1.0], np.zeros(1), np.ones(1), np.zeros(1)).tolist()
    [0.5]
    """
    precision = 1.0 / sd**2
    shares = np.asarray(weights) / np.sum(weights)
    middle = shares @ np.stack([part.at for part in parts])
    curvature, slope = np.diag(precision), precision * (mean - middle)
    for part, weight in zip(parts, weights, strict=True):
        curvature = curvature + weight * part.curvature
        slope = slope + weight * (part.slope + part.curvature @ (part.at - middle))
    bends, axes = np.linalg.eigh(curvature)
    # Uphill also where the surface bends the other way, and no farther than the prior lets one go.
    steepness = np.maximum(np.abs(bends), precision.min())
    found: FloatArray = middle + axes @ (axes.T @ slope / steepness)
    return found if float(np.abs(found - near).max()) <= _FAR else near
