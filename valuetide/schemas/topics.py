"""The topics: what each is called, how it is kept, who writes and who reads it.

All topics that carry a customer have the same number of partitions and the same partitioner
(murmur2, as the Java client's), so that partition p of each holds the same customers.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from valuetide.schemas.alert import Alert
from valuetide.schemas.events import Feedback, Identifier, Interaction, Order
from valuetide.schemas.score import DeadLetterHeaders, Score

DAY_MS = 86_400_000


class TopicNames(BaseModel):
    """The names in use; each is a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orders: Identifier = "orders"
    interactions: Identifier = "interactions"
    feedback: Identifier = "feedback"
    scores: Identifier = "scores"
    alerts: Identifier = "alerts"
    dead_letters: Identifier = "dead-letters"


@dataclass(frozen=True, slots=True)
class TopicDeclaration:
    """One topic.

    Attributes
    ----------
    role
        Field of :class:`TopicNames` that names it.
    direction
        ``in``: others write, Valuetide reads. ``out``: the reverse.
    cleanup
        Kafka's ``cleanup.policy``.
    retention_ms
        How long messages are kept; ``None`` where compaction decides.
    max_message_bytes
        Largest message that the topic takes. Dead letters take more than the inputs do, since
        they add headers to the original bytes.
    message
        Type of the value; for the dead letters, of the headers.
    """

    role: Literal["orders", "interactions", "feedback", "scores", "alerts", "dead_letters"]
    direction: Literal["in", "out"]
    title: str
    cleanup: Literal["delete", "compact"]
    retention_ms: int | None
    max_message_bytes: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    message: type[Any]
    key: str = "customer_id, UTF-8"

    def config(self) -> dict[str, str]:
        """Give the topic's configuration for the broker, by Kafka's names."""
        config = {
            "cleanup.policy": self.cleanup,
            "max.message.bytes": str(self.max_message_bytes),
        }
        if self.retention_ms is not None:
            config["retention.ms"] = str(self.retention_ms)
        return config


TOPICS = (
    TopicDeclaration(
        role="orders",
        direction="in",
        title="Orders placed, returned and cancelled",
        cleanup="delete",
        retention_ms=30 * DAY_MS,
        max_message_bytes=1_048_588,
        producers=("shop",),
        consumers=("valuetide worker",),
        message=Order,
    ),
    TopicDeclaration(
        role="interactions",
        direction="in",
        title="What customers do between orders",
        cleanup="delete",
        retention_ms=7 * DAY_MS,
        max_message_bytes=1_048_588,
        producers=("website", "app", "call centre", "campaign tool"),
        consumers=("valuetide worker",),
        message=Interaction,
    ),
    TopicDeclaration(
        role="feedback",
        direction="in",
        title="What customers say",
        cleanup="delete",
        retention_ms=30 * DAY_MS,
        max_message_bytes=1_048_588,
        producers=("survey tool", "review site"),
        consumers=("valuetide worker",),
        message=Feedback,
    ),
    TopicDeclaration(
        role="scores",
        direction="out",
        title="The value of each customer, newest version kept",
        cleanup="compact",
        retention_ms=None,
        max_message_bytes=1_048_588,
        producers=("valuetide worker",),
        consumers=("CRM", "campaign tool", "warehouse"),
        message=Score,
    ),
    TopicDeclaration(
        role="alerts",
        direction="out",
        title="Shifts of value: each step in the life of an alert",
        cleanup="delete",
        retention_ms=90 * DAY_MS,
        max_message_bytes=1_048_588,
        producers=("valuetide worker",),
        consumers=("on-call tool", "CRM", "warehouse"),
        message=Alert,
        key="fingerprint, ASCII",
    ),
    TopicDeclaration(
        role="dead_letters",
        direction="out",
        title="Events that were not accepted, as they came, with the reason",
        cleanup="delete",
        retention_ms=90 * DAY_MS,
        max_message_bytes=4 * 1_048_576,
        producers=("valuetide worker",),
        consumers=("valuetide dlq",),
        message=DeadLetterHeaders,
        key="the original key",
    ),
)

INPUTS: tuple[Literal["orders", "interactions", "feedback"], ...] = (
    "orders",
    "interactions",
    "feedback",
)
"""The input topics' roles, in the order in which shards keep their offsets."""
