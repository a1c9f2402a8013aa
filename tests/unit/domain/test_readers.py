"""Strict readers of both generations read the samples of the contract, and what the service builds of them."""

import json

import pytest
from pydantic import ValidationError

from service.domain.topics import OUTGOING_TOPICS
from tests.support.builders.samples import ORIGIN, sample
from tests.support.checks.readers import NEWER, OLDER, read_strictly
from tests.unit.domain.test_outgoing import OUT_SAMPLES, build


@pytest.mark.parametrize("name", OUT_SAMPLES)
def test_samples_and_built_events_are_read(name: str) -> None:
    event = sample(name)
    read_strictly(event["event_type"], json.dumps(event))
    read_strictly(event["event_type"], bytes(build(name, event["data"], ORIGIN).payload))


@pytest.mark.parametrize("name", OUT_SAMPLES)
def test_an_event_without_one_of_its_fields_is_not_read(name: str) -> None:
    event = sample(name)
    for field in event["data"]:
        lacking = {**event, "data": {key: value for key, value in event["data"].items() if key != field}}
        with pytest.raises(ValidationError):
            read_strictly(event["event_type"], json.dumps(lacking))


def test_each_topic_has_a_reader() -> None:
    assert {*OLDER, *NEWER} == set(OUTGOING_TOPICS)
