"""The generated contract: up to date, valid by its standards, and what the validator does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from valuetide.schemas.documents import asyncapi, json_schemas, main, read_examples, render
from valuetide.schemas.events import Interaction, Order
from valuetide.schemas.topics import TOPICS, TopicDeclaration, TopicNames
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
COMMAND = "python -m valuetide.schemas.documents docs"
EXAMPLES = read_examples(ROOT / "tests" / "examples")
FILES = render(EXAMPLES)
SCHEMAS = json_schemas()
DOCUMENT: dict[str, Any] = yaml.safe_load(FILES["asyncapi.yaml"])

# The fields of each object in AsyncAPI 3.0 and in version 0.5.0 of its Kafka bindings; those that
# are marked with a star must be there.
FIELDS = {
    "root": "asyncapi* id info* servers defaultContentType channels operations components",
    "info": "title* version* termsOfService contact license tags description externalDocs",
    "server": "host* protocol* protocolVersion pathname description title summary variables "
    "security tags externalDocs bindings",
    "channel": "address messages title summary description servers parameters tags externalDocs "
    "bindings",
    "operation": "action* channel* title summary description security tags externalDocs bindings "
    "traits messages reply",
    "message": "headers payload correlationId contentType name title summary description tags "
    "externalDocs bindings examples traits",
    "example": "headers payload name summary",
    "components": "schemas servers channels operations messages securitySchemes serverVariables "
    "parameters correlationIds replies replyAddresses externalDocs tags operationTraits "
    "messageTraits serverBindings channelBindings operationBindings messageBindings",
    "kafka channel": "topic partitions replicas topicConfiguration bindingVersion",
    "kafka topic": "cleanup.policy retention.ms retention.bytes delete.retention.ms "
    "max.message.bytes confluent.key.schema.validation confluent.key.subject.name.strategy "
    "confluent.value.schema.validation confluent.value.subject.name.strategy",
    "kafka operation": "groupId clientId bindingVersion",
    "kafka message": "key schemaIdLocation schemaIdPayloadEncoding schemaLookupStrategy "
    "bindingVersion",
}


def well_formed(kind: str, value: dict[str, Any]) -> None:
    """Refuse a field that an object of this kind does not have, or lacks."""
    fields = FIELDS[kind].split()
    missing = {f[:-1] for f in fields if f.endswith("*")} - value.keys()
    unknown = {name for name in value if not name.startswith("x-")} - {f.strip("*") for f in fields}
    assert not missing, f"{kind}: {missing} missing"
    assert not unknown, f"{kind}: {unknown} unknown"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            assert value.keys() == {"$ref"}, f"draft 7 ignores what stands beside {value}"
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(reference: str) -> Any:
    assert reference.startswith("#/")
    found: Any = DOCUMENT
    for step in reference[2:].split("/"):
        found = found[step]
    return found


def stem(topic: TopicDeclaration) -> str:
    return topic.role.replace("_", "-")


@pytest.mark.parametrize("name", FILES)
def test_the_file_in_docs_is_what_the_types_say(name: str) -> None:
    file = ROOT / "docs" / name
    assert file.is_file(), f"run: {COMMAND}"
    assert file.read_text("utf-8") == FILES[name], f"docs/{name} is out of date, run: {COMMAND}"


def test_docs_has_no_schema_of_a_message_that_is_gone() -> None:
    on_disk = {f"schemas/{file.name}" for file in (ROOT / "docs" / "schemas").iterdir()}
    assert on_disk == {name for name in FILES if name.startswith("schemas/")}, f"run: {COMMAND}"


def test_the_command_writes_every_file(tmp_path: Path) -> None:
    main([str(tmp_path), "--examples", str(ROOT / "tests" / "examples")])
    written = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*") if p.is_file()}
    assert {name: file.read_text("utf-8") for name, file in written.items()} == FILES


def test_the_command_says_where_to_run_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--examples", str(tmp_path / "none")])
    assert "root of the checkout" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_valid_and_says_what_it_is(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert schema["$id"] == f"urn:valuetide:schema:{name}"
    assert schema["title"]
    assert schema["description"]
    undescribed = [n for n, field in schema["properties"].items() if not field.get("description")]
    assert not undescribed


def test_there_is_one_schema_for_each_topic() -> None:
    assert set(SCHEMAS) == {stem(topic) for topic in TOPICS}


def test_the_interaction_kinds_are_the_vocabularys() -> None:
    kind = SCHEMAS["interactions"]["properties"]["kind"]
    assert kind["enum"] == list(Vocabulary().interaction_kinds)
    own = json_schemas(Vocabulary(interaction_kinds=("test_drive", "service")))
    assert own["interactions"]["properties"]["kind"]["enum"] == ["test_drive", "service"]


@pytest.mark.parametrize(
    ("time", "accepted"),
    [
        ("2026-03-14T09:26:53Z", True),
        ("2026-03-14T09:26:53.123456+05:30", True),
        (0, True),
        (1_773_476_813, True),
        (1_773_476_813.25, True),
        ("2026-03-14T09:26:53", False),
        ("2026-03-14", False),
        ("yesterday", False),
        (1_773_476_813_000, False),
        (True, False),
        (None, False),
    ],
)
def test_schema_and_validator_agree_on_times(time: Any, accepted: bool) -> None:
    event = EXAMPLES["interactions"]["visit"] | {"occurred_at": time}
    assert jsonschema.Draft202012Validator(SCHEMAS["interactions"]).is_valid(event) is accepted
    adapter = TypeAdapter(Interaction)
    if accepted:
        adapter.validate_json(json.dumps(event))
    else:
        with pytest.raises(ValidationError, match="occurred_at"):
            adapter.validate_json(json.dumps(event))


def test_what_we_send_is_always_text_in_its_times() -> None:
    assert SCHEMAS["scores"]["properties"]["as_of"]["type"] == "string"
    assert SCHEMAS["dead-letters"]["properties"]["rejected_at"]["type"] == "string"


def test_every_object_has_only_the_fields_of_asyncapi_3() -> None:
    well_formed("root", DOCUMENT)
    assert DOCUMENT["asyncapi"] == "3.0.0"
    well_formed("info", DOCUMENT["info"])
    well_formed("components", DOCUMENT["components"])
    for server in DOCUMENT["servers"].values():
        well_formed("server", server)
        assert server["protocol"] == "kafka"
        assert server["host"].startswith("localhost:")
    for channel in DOCUMENT["channels"].values():
        well_formed("channel", channel)
        well_formed("kafka channel", channel["bindings"]["kafka"])
        well_formed("kafka topic", channel["bindings"]["kafka"]["topicConfiguration"])
    for operation in DOCUMENT["operations"].values():
        well_formed("operation", operation)
        assert operation["action"] in ("send", "receive")
        for binding in operation.get("bindings", {}).values():
            well_formed("kafka operation", binding)
    for message in DOCUMENT["components"]["messages"].values():
        well_formed("message", message)
        well_formed("kafka message", message["bindings"]["kafka"])
        for example in message["examples"]:
            well_formed("example", example)
            assert "headers" in example or "payload" in example


def test_every_reference_resolves() -> None:
    found = list(references(DOCUMENT))
    assert found
    for reference in found:
        assert resolve(reference)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.role)
def test_every_topic_has_its_channel_and_operation(topic: TopicDeclaration) -> None:
    channel = DOCUMENT["channels"][topic.role]
    assert channel["address"] == getattr(TopicNames(), topic.role)
    assert channel["x-producers"] == list(topic.producers)
    assert channel["x-consumers"] == list(topic.consumers)
    configuration = channel["bindings"]["kafka"]["topicConfiguration"]
    assert configuration["cleanup.policy"] == [topic.cleanup]
    assert configuration.get("retention.ms") == topic.retention_ms
    assert configuration["max.message.bytes"] == topic.max_message_bytes
    operations = [
        operation
        for operation in DOCUMENT["operations"].values()
        if operation["channel"]["$ref"] == f"#/channels/{topic.role}"
    ]
    assert [o["action"] for o in operations] == ["receive" if topic.direction == "in" else "send"]
    assert len(DOCUMENT["channels"]) == len(DOCUMENT["operations"]) == len(TOPICS)


def test_operations_name_messages_of_their_own_channel() -> None:
    for operation in DOCUMENT["operations"].values():
        base = operation["channel"]["$ref"] + "/messages/"
        assert operation["messages"]
        assert all(message["$ref"].startswith(base) for message in operation["messages"])


def test_partitions_and_copies_are_the_settings_defaults() -> None:
    for channel in DOCUMENT["channels"].values():
        kafka = channel["bindings"]["kafka"]
        assert kafka["partitions"] == Settings.model_fields["partitions"].default
        assert kafka["replicas"] == Settings.model_fields["replication"].default


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
@pytest.mark.parametrize("draft", [jsonschema.Draft7Validator, jsonschema.Draft202012Validator])
def test_examples_satisfy_payload_and_header_schemas(name: str, draft: Any) -> None:
    message = DOCUMENT["components"]["messages"][name]
    assert message["examples"]
    for example in message["examples"]:
        for part in example.keys() & {"headers", "payload"}:
            schema = message[part] | {"components": DOCUMENT["components"]}
            # Draft 7 ignores what stands beside a reference, the pointer's target excepted.
            draft.check_schema(schema)
            draft(schema).validate(example[part])


def test_schemas_mean_the_same_in_draft_7() -> None:
    """A word of one draft alone would be passed over in silence by a reader of the other."""
    text = json.dumps(DOCUMENT["components"])
    for word in ("prefixItems", "unevaluated", "$defs", "$anchor", "dependent", "contentSchema"):
        assert word not in text


def test_names_and_sizes_of_a_shop_reach_the_document() -> None:
    own = asyncapi({}, names=TopicNames(orders="eu.orders"), partitions=12, replicas=3)
    channel = own["channels"]["orders"]
    assert channel["address"] == "eu.orders"
    assert channel["bindings"]["kafka"]["partitions"] == 12
    assert channel["bindings"]["kafka"]["replicas"] == 3


def test_an_order_with_unknown_fields_is_allowed_by_both() -> None:
    order = EXAMPLES["orders"]["placed"] | {"gift_wrap": True}
    jsonschema.Draft202012Validator(SCHEMAS["orders"]).validate(order)
    TypeAdapter(Order).validate_json(json.dumps(order))
