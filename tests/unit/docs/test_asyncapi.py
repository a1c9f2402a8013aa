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
from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS

SAMPLES = sorted((Path(__file__).parents[2] / "data" / "contract").glob("*.json"))
DOCUMENT: dict[str, Any] = yaml.safe_load((generate.ROOT / "docs" / "asyncapi.yaml").read_text())
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


@pytest.mark.parametrize("path", generate.documents(), ids=lambda path: path.name)
def test_what_is_generated_is_what_the_code_says(path: Path) -> None:
    assert path.read_text() == generate.documents()[path], "make docs"


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


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_without_its_correlation_id_or_with_a_wrong_type_does_not_fit(path: Path) -> None:
    sample = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [{"correlation_id": None}, {"data": []}, {"schema_version": "1"}]
    for change in changes:
        assert complaints(sample["event_type"], copy.deepcopy(sample) | change), change
