"""What is published in infra/schemas is what the code says, and the examples are what they claim to be."""

from pathlib import Path

import orjson
import pytest
from jsonschema import Draft202012Validator

from processors.events import EVENTS, TOPICS, Event
from processors.examples import EXAMPLES
from streams.schemas import asyncapi, files, schema

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
