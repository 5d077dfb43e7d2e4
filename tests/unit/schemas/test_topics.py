"""The topic declarations: complete, of one mind, and fit for the broker."""

import pytest
from pydantic import ValidationError

from valuetide.schemas.topics import INPUTS, TOPICS, TopicDeclaration, TopicNames
from valuetide.streams.settings import Settings

ROLES = [topic.role for topic in TOPICS]


def test_every_name_has_one_declaration_and_the_reverse() -> None:
    assert sorted(ROLES) == sorted(TopicNames.model_fields)
    assert len(set(ROLES)) == len(ROLES)


def test_default_names_differ_and_are_legal_in_kafka() -> None:
    names = list(TopicNames().model_dump().values())
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name.isascii() for name in names)


def test_the_inputs_are_the_topics_that_others_write() -> None:
    assert list(INPUTS) == [topic.role for topic in TOPICS if topic.direction == "in"]


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.role)
def test_a_declaration_is_complete(topic: TopicDeclaration) -> None:
    assert topic.title
    assert topic.producers
    assert topic.consumers
    ours = topic.consumers if topic.direction == "in" else topic.producers
    assert "valuetide worker" in ours
    assert (topic.retention_ms is None) == (topic.cleanup == "compact")


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.role)
def test_the_brokers_configuration_is_text_by_kafkas_names(topic: TopicDeclaration) -> None:
    config = topic.config()
    assert config["cleanup.policy"] == topic.cleanup
    assert config["max.message.bytes"] == str(topic.max_message_bytes)
    assert ("retention.ms" in config) == (topic.retention_ms is not None)
    assert all(isinstance(value, str) for value in config.values())


def test_scores_are_compacted_and_events_are_not() -> None:
    assert {t.role for t in TOPICS if t.cleanup == "compact"} == {"scores"}


def test_a_dead_letter_holds_the_largest_event_with_its_headers() -> None:
    largest = {topic.role: topic.max_message_bytes for topic in TOPICS}
    assert all(largest["dead_letters"] >= 2 * largest[role] for role in INPUTS)


def test_an_event_that_is_accepted_fits_its_topic() -> None:
    limit = Settings.model_fields["max_event_bytes"].default
    assert all(limit < topic.max_message_bytes for topic in TOPICS)


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_wrong_name_is_refused_by_its_role(name: str) -> None:
    with pytest.raises(ValidationError, match="dead_letters"):
        TopicNames(dead_letters=name)


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValidationError, match="invoices"):
        TopicNames.model_validate({"invoices": "invoices"})
