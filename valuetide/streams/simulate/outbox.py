"""Messages by the time they go out: late ones, repeated ones, bad ones, and silence in an outage.

What happens on a day may go out on another: returns, answers to a survey, what comes late. Such
messages wait in the list of their day, so memory is bounded by a day of events and what is on its
way.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, NamedTuple

from valuetide.streams.replay.event import Role, SourceEvent
from valuetide.streams.simulate.chance import chance
from valuetide.streams.simulate.scenario import Scenario

DAY_SECONDS: Final = 86_400.0
REPEATED_AFTER_SECONDS: Final = 30.0
"""Mean time until a producer that has lost the acknowledgement sends again."""


class Message(NamedTuple):
    """A message on its way.

    Attributes
    ----------
    due
        When it goes out, epoch seconds.
    role, kind
        Topic and kind of its event.
    event
        What is sent.
    mark
        ``event``, or what noise made of it: ``late``, ``duplicate``, ``bad``.
    """

    due: float
    role: Role
    kind: str
    event: SourceEvent
    mark: str = "event"


class Outbox:
    """Takes the messages of each day and gives those that go out on it, in order.

    Attributes
    ----------
    sent, withheld
        Number of messages that went out, and of those lost to an outage, by topic, kind and mark.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._start = scenario.start_seconds
        self._end = self._start + scenario.days * DAY_SECONDS
        self._waiting: defaultdict[int, list[Message]] = defaultdict(list)
        self._outages: list[tuple[Role, float, float]] = []
        for shift in scenario.shifts:
            if shift.topic is not None and shift.end_day is not None:
                begin, end = (
                    self._start + day * DAY_SECONDS for day in (shift.start_day, shift.end_day)
                )
                self._outages.append((shift.topic, begin, end))
        self.sent: Counter[tuple[Role, str, str]] = Counter()
        self.withheld: Counter[tuple[Role, str, str]] = Counter()

    def put(self, day: int, messages: list[Message]) -> None:
        """Take what happened on a day, each message due when it happened."""
        # What would happen after the end does not happen.
        messages = [message for message in messages if message.due < self._end]
        noise, n = self._scenario.noise, len(messages)
        draw = chance(self._scenario.seed, "noise", day)
        late, twice, bad = (
            (draw.random(n) < share).nonzero()[0].tolist()
            for share in (noise.late, noise.duplicates, noise.bad)
        )
        for place in late:
            one = messages[place]
            delay = draw.exponential(noise.late_hours * 3_600.0)
            messages[place] = one._replace(due=one.due + delay, mark="late")
        out = {place for place, message in enumerate(messages) if self._is_out(message)}
        extra: list[Message] = []
        for place in twice:
            delay = draw.exponential(REPEATED_AFTER_SECONDS)
            # Of what was not sent nothing is repeated.
            if place not in out:
                one = messages[place]
                extra.append(one._replace(due=one.due + delay, mark="duplicate"))
        for number, place in enumerate(bad):
            one = messages[place]
            value = spoiled(one.event.value, number)
            extra.append(one._replace(event=one.event._replace(value=value), mark="bad"))
        for one in (*messages, *extra):
            if self._is_out(one):
                self.withheld[one.role, one.kind, one.mark] += 1
            else:
                self._waiting[int((one.due - self._start) // DAY_SECONDS)].append(one)

    def take(self, day: int) -> Iterator[tuple[Role, SourceEvent]]:
        """Give what goes out on a day; once all of that day has been put."""
        messages = self._waiting.pop(day, [])
        messages.sort(key=attrgetter("due"))
        self.sent.update((one.role, one.kind, one.mark) for one in messages)
        return ((one.role, one.event) for one in messages)

    def rest(self) -> Iterator[tuple[Role, SourceEvent]]:
        """Give what comes after the last day because it is late."""
        for day in sorted(self._waiting):
            yield from self.take(day)

    def _is_out(self, message: Message) -> bool:
        return any(
            role == message.role and begin <= message.due < end
            for role, begin, end in self._outages
        )


def spoiled(value: bytes, number: int) -> bytes:
    """Make of an event one that no worker can accept, in one of three ways.

    Examples
    --------
    >>> [spoiled(b'{"occurred_at":5,"customer_id":"c"}', number) for number in range(3)]
    ... # doctest: +NORMALIZE_WHITESPACE
    [b'{"occurred_at":5,"customer_id":',
     b'{"occurred_at":"soon","customer_id":"c"}',
     b'{"occurred_at":5,"customer":"c"}']
    """
    way = number % 3
    if way == 0:
        return value[:-4]
    if way == 1:
        head, _, tail = value.partition(b",")
        return head[: head.index(b":") + 1] + b'"soon",' + tail
    return value.replace(b'"customer_id":', b'"customer":', 1)
