"""docs/asyncapi.yaml agrees with the models, and every sample of the contract is valid by it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from docs import generate
from docs.fields import FIELDS
from service.domain.events import Rejection
from service.domain.incoming import decode
from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS

SAMPLES = sorted((Path(__file__).parents[2] / "data" / "contract").glob("*.json"))
DOCUMENT: dict[str, Any] = yaml.load((generate.ROOT / "docs" / "asyncapi.yaml").read_text(), yaml.CSafeLoader)
MESSAGES = {message["name"]: message for message in DOCUMENT["components"]["messages"].values()}


def complaints(topic: str, value: Any) -> list[str]:
    """Returns the schema errors of a value on a topic."""
    schema = {**MESSAGES[topic]["payload"], "components": DOCUMENT["components"]}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_what_is_generated_is_what_the_code_says() -> None:
    drifted = [path.name for path, text in generate.documents().items() if path.read_text() != text]
    assert drifted == [], "make docs"


def test_every_topic_is_a_channel_and_is_received_or_sent() -> None:
    addresses = {name: channel["address"] for name, channel in DOCUMENT["channels"].items()}
    ways: dict[str, set[str]] = {"receive": set(), "send": set()}
    for operation in DOCUMENT["operations"].values():
        ways[operation["action"]].add(addresses[operation["channel"]["$ref"].rpartition("/")[2]])
    assert ways == {"receive": set(INCOMING_TOPICS), "send": set(OUTGOING_TOPICS)}


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        place = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_fits_and_is_shown(path: Path) -> None:
    sample = json.loads(path.read_text())
    assert complaints(sample["event_type"], sample) == []
    assert {"payload": sample} in MESSAGES[sample["event_type"]]["examples"]


def test_no_two_schemas_have_the_same_title_and_each_field_is_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert [schema["title"] for schema in schemas.values()] == list(schemas)
    fields = [(name, field, value) for name, each in schemas.items() for field, value in each["properties"].items()]
    for name, field, value in fields:
        described = schemas[value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        assert described["description"], f"{name}.{field}"
    times = {field for _, field, value in fields if "date-time" in json.dumps(value)}
    assert times == {"timestamp", "event_timestamp", "stored_at", "expired_at", "failed_at"}


def test_every_description_is_of_a_field_that_there_is() -> None:
    there = {
        each
        for name, schema in DOCUMENT["components"]["schemas"].items()
        for field in schema["properties"]
        for each in (name, field, f"{name}.{field}")
    }
    assert set(FIELDS) <= there


def changed(name: str, **data: Any) -> Any:
    sample = json.loads((SAMPLES[0].parent / f"{name}.json").read_text())
    return {**sample, "data": {**sample["data"], **data}}


@pytest.mark.parametrize(
    "value",
    [
        changed("in.batch_essays_registered", essay_ids=[]),
        changed("in.batch_essays_registered", essay_ids=["e", "e"]),
        changed("in.batch_essays_registered", expected_essay_count=0),
        changed("in.batch_essays_registered", expected_essay_count=100_001),
        changed("in.batch_essays_registered", batch_id=None),
        changed("in.batch_essays_registered", batch_id="b" * 256),
        changed("in.student_associations_confirmed", associations=None),
        changed("in.essay_content_provisioned", file_size_bytes=-1),
        {**changed("in.essay_content_provisioned"), "schema_version": 2},
    ],
)
def test_what_the_service_rejects_does_not_fit_as_far_as_a_schema_can_say(value: Any) -> None:
    assert complaints(value["event_type"], value)
    document = json.dumps(value).encode()
    assert isinstance(decode(value["event_type"], document, max_bytes=2_000_000), Rejection)


def test_another_event_type_does_not_fit() -> None:
    for name, message in MESSAGES.items():
        assert complaints(name, message["examples"][0]["payload"] | {"event_type": "another"})


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_without_its_correlation_id_or_with_a_wrong_type_does_not_fit(path: Path) -> None:
    sample = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [{"correlation_id": None}, {"data": []}, {"schema_version": "1"}]
    for change in changes:
        assert complaints(sample["event_type"], copy.deepcopy(sample) | change), change
