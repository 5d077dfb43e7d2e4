"""How far a replay has come, kept in a file, so that it can go on after it was stopped.

The file is one JSON object::

    {"version": 1,
     "file": {"size": 1950500, "modified_ns": ..., "digest": "..."},   the file that was replayed,
                                  null where the events are made and not read
     "plan": "9f0c...",           digest of everything that decides which events come in which order
     "acknowledged": 12800,       events, from the first, that the broker has without a gap
     "shift_seconds": 0.0}        what was added to every event time
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from valuetide.streams.replay.errors import ReplayError
from valuetide.streams.replay.files import Fingerprint, replace_file
from valuetide.streams.replay.send import Progress, Sent
from valuetide.streams.replay.stopping import stopping

E = TypeVar("E")

VERSION: Final = 1

SAVE_SECONDS: Final = 1.0
"""The position is kept this often, so that a replay that is killed repeats little."""


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a replay; the attributes are drawn at the top of this module."""

    file: Fingerprint | None
    plan: str
    acknowledged: int = 0
    shift_seconds: float = 0.0
    version: int = VERSION


_POSITION: Final = TypeAdapter(Position)


def load_position(state: Path, file: Fingerprint | None, plan: str) -> Position | None:
    """Read a position and make sure that it belongs to this replay.

    Parameters
    ----------
    state
        The state file.
    file, plan
        Of the replay that is to go on.

    Returns
    -------
    Position or None
        ``None`` when there is no state file yet.

    Raises
    ------
    ReplayError
        When the file or the way it is replayed has changed since, or the state cannot be read.
    """
    again = f"start from the beginning by deleting {state}"
    try:
        position = _POSITION.validate_json(state.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReplayError(f"{state}: cannot be read: {error.strerror}") from None
    except ValidationError:
        raise ReplayError(f"{state}: is no position of a replay; {again}") from None
    if position.version != VERSION:
        raise ReplayError(f"{state}: has version {position.version}, not {VERSION}; {again}")
    if position.file != file:
        raise ReplayError(f"the file has changed since {state} was written; {again}")
    if position.plan != plan:
        raise ReplayError(
            f"{state} was written by a run with other options (of what is sent, in which order or"
            f" where to); give the same ones, or {again}"
        )
    return position


def save_position(state: Path, position: Position) -> None:
    """Write a position; a crash leaves the old one or the new one, never half of one.

    Raises
    ------
    ReplayError
        When it cannot be written.
    """
    replace_file(state, json.dumps(asdict(position)))


def send_on(
    events: Iterable[E],
    state: Path | None,
    position: Position,
    send: Callable[..., Coroutine[Any, Any, Sent]],
    on_progress: Callable[[Progress], None] | None,
) -> Sent:
    """Send what a position leaves over, and keep the position however that ends.

    A signal to end makes it stop in good order.

    Parameters
    ----------
    events
        All, from the first.
    state
        Where the position is kept; ``None``: nowhere.
    position
        To go on from.
    send
        Sends events, and takes ``stop`` and ``on_progress`` as ``replay.send.send`` does.
    on_progress
        Told how far this run has come.
    """
    left = itertools.islice(events, position.acknowledged, None)
    # What comes before the first event, such as sorting, happens here, while a signal still simply
    # ends the program: nothing is sent yet.
    first = list(itertools.islice(left, 1))
    keeper = Keeper(state, position, on_progress)

    async def sending() -> Sent:
        stop = asyncio.Event()
        with stopping(stop):
            return await send(itertools.chain(first, left), stop=stop, on_progress=keeper.progress)

    try:
        return asyncio.run(sending())
    finally:
        keeper.save()


class Keeper:
    """Keeps the position in its file as events are acknowledged."""

    def __init__(
        self,
        state: Path | None,
        position: Position,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._state = state
        self._start = position.acknowledged
        self._position = position
        self._on_progress = on_progress
        self._next_save = time.monotonic() + SAVE_SECONDS

    def progress(self, progress: Progress) -> None:
        """Note how far this run has come."""
        acknowledged = self._start + progress.acknowledged
        self._position = replace(self._position, acknowledged=acknowledged)
        if time.monotonic() >= self._next_save:
            self.save()
            self._next_save = time.monotonic() + SAVE_SECONDS
        if self._on_progress is not None:
            self._on_progress(progress)

    def save(self) -> None:
        """Write the position now."""
        if self._state is not None:
            save_position(self._state, self._position)
