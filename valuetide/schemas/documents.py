"""The written contract: JSON Schemas and one AsyncAPI document, generated from the types.

Run it from the root of the checkout after every change to a message, a topic or an example::

    python -m valuetide.schemas.documents docs

It writes ``docs/schemas/<topic>.schema.json`` for each topic and ``docs/asyncapi.yaml``. The same
types give the same bytes, so a test can compare the files with what they should be.

The schemas keep to the words that mean the same in JSON Schema draft 2020-12, which the single
files name, and in draft 7, on which AsyncAPI's own schema object is built: one schema serves both.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from valuetide.schemas.events import Identifier
from valuetide.schemas.topics import TOPICS, TopicDeclaration, TopicNames
from valuetide.schemas.vocabulary import Vocabulary

CONTRACT_VERSION = "0.1.0"
"""Version of the messages; it changes with them, not with the program.

Additions that old readers ignore raise the second number, anything else the first.
"""

DEFAULT_PARTITIONS = 4
"""Partitions of each topic where the settings say nothing else."""

DEFAULT_REPLICAS = 1
"""Copies of each topic where the settings say nothing else."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KAFKA_BINDING = "0.5.0"
RFC_3339_OFFSET = "([Zz]|[+-][0-9]{2}:[0-9]{2})$"
LAST_EPOCH_SECOND = 253_402_300_799
"""The end of the year 9999. Epoch milliseconds of today lie beyond it, and so are refused."""

Document = dict[str, Any]
Examples = Mapping[str, Mapping[str, Document]]


def json_schemas(vocabulary: Vocabulary | None = None) -> dict[str, Document]:
    """Give one JSON Schema, draft 2020-12, for the message of each topic.

    Parameters
    ----------
    vocabulary
        The shop's words; its interaction kinds are those that the schema allows. The default
        vocabulary when not given.

    Returns
    -------
    dict
        Schema by the topic's default name. The one of the dead letters describes their headers.

    Examples
    --------
    >>> sorted(json_schemas())
    ['dead-letters', 'feedback', 'interactions', 'orders', 'scores']
    """
    words = vocabulary or Vocabulary()
    return {_stem(topic): _standalone(topic, _message_schema(topic, words)) for topic in TOPICS}


def asyncapi(
    examples: Examples,
    vocabulary: Vocabulary | None = None,
    names: TopicNames | None = None,
    partitions: int = DEFAULT_PARTITIONS,
    replicas: int = DEFAULT_REPLICAS,
) -> Document:
    """Give the AsyncAPI 3.0 document of everything that Valuetide receives and sends.

    Parameters
    ----------
    examples
        By the topic's default name: example messages by name. Those of the dead letters are
        headers.
    vocabulary, names
        The shop's words and the topics' names; the defaults when not given.
    partitions, replicas
        Of each topic.
    """
    words, called = vocabulary or Vocabulary(), names or TopicNames()
    schemas: Document = {}
    messages: Document = {}
    for topic in TOPICS:
        schema = _message_schema(topic, words)
        schemas |= schema.pop("$defs", {})
        schemas[topic.message.__name__] = schema
        messages[_message_name(topic)] = _message(topic, examples.get(_stem(topic), {}))
    return {
        "asyncapi": "3.0.0",
        "id": "urn:valuetide",
        "info": _info(),
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "localhost:9092",
                "protocol": "kafka",
                "description": "The broker of the compose file, or the embedded one.",
            }
        },
        "channels": {t.role: _channel(t, called, partitions, replicas) for t in TOPICS},
        "operations": dict(_operation(topic) for topic in TOPICS),
        "components": {
            "messages": messages,
            "schemas": _with_references(schemas, "#/components/schemas/"),
        },
    }


def read_examples(folder: Path) -> dict[str, dict[str, Document]]:
    """Read the example messages of every topic.

    Parameters
    ----------
    folder
        Has one folder for each topic, by its default name, with one JSON file for each message.

    Returns
    -------
    dict
        Messages by topic and by the file's name without its ending, in alphabetical order.
    """
    return {
        _stem(topic): {
            file.stem: json.loads(file.read_text("utf-8"))
            for file in sorted((folder / _stem(topic)).glob("*.json"))
        }
        for topic in TOPICS
    }


def render(examples: Examples) -> dict[str, str]:
    """Give every generated file: text by path, relative to the folder of documents."""
    import yaml  # noqa: PLC0415 - a development tool: the running program does not need it.

    files = {
        f"schemas/{stem}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for stem, schema in json_schemas().items()
    }
    # Through JSON and back: parts that two messages share would otherwise become YAML aliases.
    plain = json.loads(json.dumps(asyncapi(examples)))
    files["asyncapi.yaml"] = "# Generated: python -m valuetide.schemas.documents docs\n"
    files["asyncapi.yaml"] += yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Write every generated file; the command line's entry point."""
    parser = argparse.ArgumentParser(prog="python -m valuetide.schemas.documents")
    parser.add_argument("docs", type=Path, help="folder to write to")
    parser.add_argument(
        "--examples",
        type=Path,
        default=Path("tests/examples"),
        help="folder of example messages (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    if not given.examples.is_dir():
        parser.error(f"there is no folder {given.examples}: run this from the root of the checkout")
    for name, text in render(read_examples(given.examples)).items():
        file = given.docs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")


class _Contract(GenerateJsonSchema):
    """Pydantic's generator, less the title it makes from each field's name, plus epoch seconds."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        text = super().datetime_schema(schema)
        if self.mode == "serialization":  # what we write is always text
            return text
        return {
            "anyOf": [
                text
                | {
                    "pattern": RFC_3339_OFFSET,
                    "description": "RFC 3339, with its offset from UTC",
                    "examples": ["2026-03-14T09:26:53+01:00"],
                },
                {
                    "type": "number",
                    "minimum": 0,
                    "maximum": LAST_EPOCH_SECOND,
                    "description": "Seconds since 1970-01-01T00:00:00Z, with or without a fraction",
                    "examples": [1_773_476_813.25],
                },
            ]
        }

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        generated = super().tuple_schema(schema)
        members = generated.pop("prefixItems", [])
        if not members or any(member != members[0] for member in members):
            raise NotImplementedError("a tuple of different types is written in no common word")
        return generated | {"items": members[0]}


def _stem(topic: TopicDeclaration) -> str:
    return topic.role.replace("_", "-")


def _message_name(topic: TopicDeclaration) -> str:
    return "DeadLetter" if topic.role == "dead_letters" else topic.message.__name__


def _message_schema(topic: TopicDeclaration, vocabulary: Vocabulary) -> Document:
    schema = TypeAdapter(topic.message).json_schema(
        schema_generator=_Contract,
        mode="validation" if topic.direction == "in" else "serialization",
    )
    schema["description"] = " ".join(schema["description"].replace("``", "`").split())
    if topic.role == "interactions":
        schema["properties"]["kind"] = {
            "description": "What happened: one of the vocabulary's interaction kinds, a setting",
            "enum": list(vocabulary.interaction_kinds),
            "type": "string",
        }
    whole: Document = _with_whole_numbers(schema)
    return whole


def _standalone(topic: TopicDeclaration, schema: Document) -> Document:
    head = {
        "$schema": DIALECT,
        "$id": f"urn:valuetide:schema:{_stem(topic)}",
        "title": topic.title,
        "description": schema["description"],
        "type": schema["type"],
    }
    return head | {name: value for name, value in schema.items() if name not in head}


def _info() -> Document:
    return {
        "title": "Valuetide",
        "version": CONTRACT_VERSION,
        "description": (
            "Real-time customer value. Orders, interactions and feedback come in; each customer's "
            "score goes out with every change. Messages are JSON in UTF-8, one per Kafka message, "
            "keyed by customer_id. Every topic has the same number of partitions and the "
            "partitioner of the Java client (murmur2), so equal partition numbers hold the same "
            "customers. Unknown fields are ignored; an event with a missing or wrong one goes to "
            "the dead letters."
        ),
        "license": {"name": "Apache-2.0"},
    }


def _channel(
    topic: TopicDeclaration, names: TopicNames, partitions: int, replicas: int
) -> Document:
    configuration: Document = {"cleanup.policy": [topic.cleanup]}
    if topic.retention_ms is not None:
        configuration["retention.ms"] = topic.retention_ms
    configuration["max.message.bytes"] = topic.max_message_bytes
    producers, consumers = ", ".join(topic.producers), ", ".join(topic.consumers)
    name = _message_name(topic)
    return {
        "address": getattr(names, topic.role),
        "title": topic.title,
        "description": f"Written by: {producers}. Read by: {consumers}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "partitions": partitions,
                "replicas": replicas,
                "topicConfiguration": configuration,
                "bindingVersion": KAFKA_BINDING,
            }
        },
        "x-producers": list(topic.producers),
        "x-consumers": list(topic.consumers),
    }


def _operation(topic: TopicDeclaration) -> tuple[str, Document]:
    action = "receive" if topic.direction == "in" else "send"
    name = _message_name(topic)
    operation: Document = {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic.role}"},
        "title": topic.title,
        "messages": [{"$ref": f"#/channels/{topic.role}/messages/{name}"}],
    }
    if action == "receive":
        group = {"type": "string", "default": "valuetide", "description": "A setting: group"}
        operation["bindings"] = {"kafka": {"groupId": group, "bindingVersion": KAFKA_BINDING}}
    return f"{action}{name}", operation


def _message(topic: TopicDeclaration, examples: Mapping[str, Document]) -> Document:
    reference = {"$ref": f"#/components/schemas/{topic.message.__name__}"}
    described = {"name": topic.message.__name__, "title": topic.title}
    if topic.role == "dead_letters":
        return {
            "name": _message_name(topic),
            "title": topic.title,
            "summary": "Each header is text in UTF-8; numbers are written in decimal digits.",
            "contentType": "application/octet-stream",
            "headers": reference,
            "payload": {
                "type": "string",
                "format": "binary",
                "description": "The bytes of the original value, untouched; perhaps not JSON",
            },
            "bindings": _key_binding({"description": "The original key, untouched; may be absent"}),
            "examples": [{"name": n, "headers": example} for n, example in examples.items()],
        }
    key = TypeAdapter(Identifier).json_schema() | {"description": topic.key}
    return described | {
        "contentType": "application/json",
        "payload": reference,
        "bindings": _key_binding(key),
        "examples": [{"name": n, "payload": example} for n, example in examples.items()],
    }


def _key_binding(schema: Document) -> Document:
    return {"kafka": {"key": schema, "bindingVersion": KAFKA_BINDING}}


def _with_references(value: Any, base: str) -> Any:
    """Point every reference to a definition at its new place."""
    if isinstance(value, dict):
        return {
            name: inner.replace("#/$defs/", base)
            if name == "$ref"
            else _with_references(inner, base)
            for name, inner in value.items()
        }
    return [_with_references(inner, base) for inner in value] if isinstance(value, list) else value


def _with_whole_numbers(value: Any) -> Any:
    """Write bounds like 1000000000.0 as the integers that they are."""
    if isinstance(value, dict):
        return {name: _with_whole_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


if __name__ == "__main__":
    main()
