"""Topics on the broker: create them, and check that they are as declared."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
)

from valuetide.schemas.errors import FaultError
from valuetide.schemas.topics import TOPICS, TopicDeclaration
from valuetide.streams.connections import broker_arguments
from valuetide.streams.knock import BrokerAwayError, DoorShutError, knock_at_broker_and_wait
from valuetide.streams.settings import Settings

__all__ = [
    "BrokerAwayError",
    "TopicState",
    "admin_client",
    "check_group",
    "check_topics",
    "create_topics",
    "topic_states",
]

REQUEST_TIMEOUT_MS = 15_000
BOOTSTRAP_TIMEOUT_MS = 4_000
VISIBLE_SECONDS = 5.0
"""Kafka's controller says that a topic is there some moments before its brokers know of it."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as declared and as found; ``found_partitions`` is ``None`` where it is absent."""

    name: str
    declaration: TopicDeclaration
    partitions: int
    found_partitions: int | None

    @property
    def sound(self) -> bool:
        """Whether the topic is there with the right number of partitions."""
        return self.found_partitions == self.partitions


@contextmanager
def admin_client(settings: Settings) -> Iterator[KafkaAdminClient]:
    """Connect to the broker for administration.

    Raises
    ------
    BrokerAwayError
        When no broker answers.
    DoorShutError
        When TLS or the credentials do not fit.
    """
    knock_at_broker_and_wait(settings)
    try:
        client = KafkaAdminClient(
            **broker_arguments(settings),
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
        )
    except (KafkaError, OSError, ValueError) as error:
        raise BrokerAwayError(
            f"no Kafka broker answers at {settings.broker}: start one, or set VALUETIDE_BROKER"
        ) from error
    try:
        yield client
    except KafkaError as error:
        raise BrokerAwayError(f"Kafka at {settings.broker}: {error}") from error
    finally:
        client.close()


def topic_states(client: KafkaAdminClient, settings: Settings) -> list[TopicState]:
    """Give each declared topic as it is found on the broker."""
    names = {getattr(settings.topics, topic.role): topic for topic in TOPICS}
    present = set(client.list_topics())
    wanted = [name for name in names if name in present]
    found: dict[str, int] = {}
    for topic in client.describe_topics(wanted) if wanted else ():
        name = _get(topic, "name", "topic")
        found[name] = len(topic["partitions"])
    return [
        TopicState(name, topic, settings.partitions, found.get(name))
        for name, topic in names.items()
    ]


def create_topics(client: KafkaAdminClient, settings: Settings) -> list[str]:
    """Create the topics that are absent, and give their names.

    Raises
    ------
    FaultError
        When the broker refuses.
    """
    missing = [state for state in topic_states(client, settings) if state.found_partitions is None]
    if not missing:
        return []
    try:
        client.create_topics(
            {
                state.name: {
                    "num_partitions": state.partitions,
                    "replication_factor": settings.replication,
                    "configs": state.declaration.config(),
                }
                for state in missing
            },
            timeout_ms=REQUEST_TIMEOUT_MS,
        )
    except TopicAlreadyExistsError:
        pass  # somebody else was as quick; the caller checks what is there
    except KafkaError as error:
        raise FaultError(f"the broker does not create the topics: {error}") from error
    deadline = time.monotonic() + VISIBLE_SECONDS
    while any(state.found_partitions is None for state in topic_states(client, settings)):
        if time.monotonic() > deadline:
            break  # the caller checks what is there
        time.sleep(VISIBLE_SECONDS / 100)
    return [state.name for state in missing]


def check_group(client: KafkaAdminClient, settings: Settings) -> None:
    """Make sure that we may be in the consumer group.

    A consumer that may not waits for ever without a word.

    Raises
    ------
    DoorShutError
        When an ACL is missing.
    """
    try:
        client.list_group_offsets(settings.group)
    except GroupAuthorizationFailedError as error:
        raise DoorShutError(
            f"Kafka does not let us into the group {settings.group}: give {_who(settings)} Read "
            "on it, see docs/security.md, or set another group"
        ) from error
    except KafkaError:
        pass  # a group that has never been; whatever else is wrong will be said in its place


def _who(settings: Settings) -> str:
    return (
        f"the user in broker_username ({settings.broker_username})"
        if (settings.broker_username)
        else "our certificate's name"
    )


def check_topics(states: list[TopicState]) -> None:
    """Make sure that the topics are there with equal numbers of partitions.

    Raises
    ------
    FaultError
        Where one is absent or has another number; the text says what to do.
    """
    missing = [state.name for state in states if state.found_partitions is None]
    if missing:
        raise FaultError(
            f"no topic {', '.join(missing)} on the broker: create with `valuetide topics --create`"
            ", or let broker_username describe it"
        )
    wrong = [f"{state.name} has {state.found_partitions}" for state in states if not state.sound]
    if wrong:
        raise FaultError(
            f"partitions: the settings say {states[0].partitions}, but {', '.join(wrong)}. All "
            "topics need the same number, and it cannot change for a given state: set "
            "VALUETIDE_PARTITIONS to it, or create the topics anew."
        )


def _get(mapping: Any, *names: str) -> Any:
    for name in names:
        if name in mapping:
            return mapping[name]
    raise KeyError(names[0])
