"""What is published in infra/schemas is what the code says, and the examples are what they claim to be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from processors.events import EVENTS, TOPICS, Event
from processors.examples import EXAMPLES
from streams.schemas import asyncapi, files, schema
from streams.wire import encode

FOLDER = Path(__file__).parents[3] / "infra" / "schemas"


def test_what_lies_in_infra_schemas_is_what_the_code_says() -> None:
    there = {str(p.relative_to(FOLDER)): p.read_bytes() for p in FOLDER.rglob("*.json")}
    assert there.keys() == files().keys(), "run: vigil schemas --out infra/schemas"
    drifted = [name for name, content in files().items() if there[name] != content]
    assert not drifted, "run: vigil schemas --out infra/schemas"


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.type)
def test_each_kind_has_an_example_that_its_schema_accepts(kind: type[Event]) -> None:
    examples = [event for event in EXAMPLES if type(event) is kind]
    assert len(examples) == 1
    validator = Draft202012Validator(schema(kind), format_checker=Draft202012Validator.FORMAT_CHECKER)
    validator.validate(orjson.loads(examples[0].model_dump_json()))
    assert kind.model_validate_json(examples[0].model_dump_json()) == examples[0]


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.type)
def test_every_property_says_what_it_is(kind: type[Event]) -> None:
    """Units, code systems and meaning stand in the schema itself: its readers do not see the code."""
    body = schema(kind)
    parts = {"": body, **body.get("$defs", {})}
    mute = [
        f"{name}.{field}"
        for name, part in parts.items()
        for field, one in part.get("properties", {}).items()
        if not one.get("description", "").strip().endswith((".", "..."))
    ]
    assert not mute, "a field's docstring is its description"
    assert all(part.get("description") for part in parts.values())


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.type)
def test_fields_of_a_newer_producer_are_tolerated_and_missing_ones_are_not(kind: type[Event]) -> None:
    example = next(event for event in EXAMPLES if type(event) is kind)
    body = orjson.loads(example.model_dump_json())
    assert kind.model_validate({**body, "invented_later": {"deep": [1]}}) == example
    with pytest.raises(ValueError, match="id"):
        kind.model_validate({name: value for name, value in body.items() if name != "id"})


def test_entities_of_the_example_stand_where_they_say() -> None:
    note = next(event for event in EXAMPLES if event.type == "org.vigil.note.v1")
    entities = next(event for event in EXAMPLES if event.type == "org.vigil.entities.v1")
    for entity in entities.entities:  # type: ignore[attr-defined]
        assert note.text[entity.start : entity.end] == entity.text  # type: ignore[attr-defined]


def test_the_asyncapi_document_names_every_topic_and_every_event() -> None:
    document = asyncapi()
    assert tuple(document["channels"]) == TOPICS
    assert set(document["components"]["messages"]) == {kind.type for kind in EVENTS}
    for channel in document["channels"].values():
        for reference in channel["messages"].values():
            assert reference["$ref"].removeprefix("#/components/messages/") in document["components"]["messages"]


def references(body: Any) -> Iterator[str]:
    if isinstance(body, dict):
        yield from (value for name, value in body.items() if name == "$ref")
        body = list(body.values())
    if isinstance(body, list):
        for one in body:
            yield from references(one)


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi()
    for reference in references(document):
        if not reference.startswith("#/"):
            assert reference in files()
            continue
        there: Any = document
        for name in reference.removeprefix("#/").split("/"):
            there = there[name]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.type)
def test_a_record_has_the_key_and_the_headers_that_its_message_says(event: Event) -> None:
    message = asyncapi()["components"]["messages"][event.type]
    trace = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    record = encode(event, source="/vigil/site/test", time=b"2026-11-30T12:00:00.000+00:00", traceparent=trace)
    key = None if record.key is None else record.key.decode()
    Draft202012Validator(message["bindings"]["kafka"]["key"]).validate(key)
    headers = {name: value.decode() for name, value in record.headers}
    validator = Draft202012Validator(message["headers"], format_checker=Draft202012Validator.FORMAT_CHECKER)
    validator.validate(headers)
    assert headers.keys() == message["headers"]["properties"].keys()
    assert all(one["description"] for one in message["headers"]["properties"].values())
    if (patient := getattr(event, "patient_id", None)) is not None:
        assert key == patient


def test_what_receivers_write_is_an_operation_that_sends() -> None:
    operations = asyncapi()["operations"]
    (answer,) = [one for one in operations.values() if one["action"] == "send"]
    assert answer["channel"] == {"$ref": "#/channels/clinical.feedback"}
    assert {one["channel"]["$ref"].rsplit("/", 1)[-1] for one in operations.values() if one["action"] == "receive"} == set(
        TOPICS
    )
