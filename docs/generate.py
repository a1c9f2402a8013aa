"""Writes the documents that are made from the code: `make docs`. With --check it only says which have drifted.

docs/asyncapi.yaml comes from the models of `service.domain` and the samples of every event,
the table of docs/configuration.md from the fields of `service.settings`, docs/openapi.json from `service.http.admin`.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from service.domain import contract, topics
from service.domain import incoming as events
from service.http import admin
from service.kafka import topics as kafka
from service.settings import settings_table

ROOT: Final = Path(__file__).parents[1]
SAMPLES: Final = ROOT / "tests" / "data" / "contract"
SCHEMAS: Final = "#/components/schemas/"

Json = dict[str, Any]

MESSAGES: Final = {
    topics.BATCH_REGISTERED: ("BatchEssaysRegistered", "A batch will hold these essays (from BOS)."),
    topics.CONTENT_PROVISIONED: ("EssayContentProvisioned", "A batch has this text (from the File Service)."),
    topics.VALIDATION_FAILED: ("EssayValidationFailed", "An upload yields no text (from the File Service)."),
    topics.SLOT_ASSIGNED: ("EssaySlotAssigned", "A content has got its slot (to clients)."),
    topics.BATCH_READY: ("BatchEssaysReady", "Every slot is taken; lists the assigned ones (to BOS)."),
    topics.EXCESS_CONTENT: ("ExcessContentProvisioned", "A content found no open slot (to BOS)."),
    topics.VALIDATION_ERRORS: ("BatchValidationErrors", "Every slot is taken, these by failures (to BOS)."),
    topics.PENDING_EXPIRED: ("PendingContentExpired", "A registration did not come in time (to BOS and operators)."),
    topics.READINESS_TIMEOUT: ("BatchReadinessTimeout", "A batch is not complete in time (to BOS)."),
}
"""Each topic's message: its name and what it says."""

HEADERS: Final = {
    "type": "object",
    "required": ["event_id", "event_type", "correlation_id"],
    "properties": {
        name: {"type": "string"} for name in ("event_id", "event_type", "correlation_id", "traceparent", "tracestate")
    },
}


def asyncapi() -> Json:
    """The AsyncAPI 3 document of all topics."""
    schemas, payloads = _schemas()
    samples = _samples()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Essay Lifecycle Service",
            "version": "1",
            "description": "Made from the code by `make docs`. The rules that no schema tells (which of two names of a "
            "batch, how essays are counted, in which order events come) are in events.md, beside this file.",
        },
        "defaultContentType": "application/json",
        "channels": {
            name: {"address": topic, "messages": {name: {"$ref": f"#/components/messages/{name}"}}}
            | {"bindings": {"kafka": {"topicConfiguration": _configuration(topic)}}}
            for topic, (name, _) in MESSAGES.items()
        },
        "operations": {
            f"{'receive' if topic in topics.INCOMING_TOPICS else 'send'}{name}": {
                "action": "receive" if topic in topics.INCOMING_TOPICS else "send",
                "channel": {"$ref": f"#/channels/{name}"},
            }
            for topic, (name, _) in MESSAGES.items()
        },
        "components": {
            "messages": {
                name: {"name": topic, "summary": summary}
                | ({"headers": HEADERS} if topic in topics.OUTGOING_TOPICS else {})
                | {"bindings": {"kafka": {"key": _key(topic)}}}
                | {"payload": payloads[topic], "examples": [{"payload": sample} for sample in samples[topic]]}
                for topic, (name, summary) in MESSAGES.items()
            },
            "schemas": schemas,
        },
    }


def _schemas() -> tuple[Json, Json]:
    """Every schema by name, and each topic's reference to its own."""
    mode: JsonSchemaMode = "validation"
    envelope: Any = contract.Envelope
    envelopes = events.ENVELOPE_OF | {topic: envelope[data] for topic, data in contract.DATA_OF.items()}
    inputs = [(topic, mode, TypeAdapter(envelopes[topic])) for topic in MESSAGES]
    references, made = TypeAdapter.json_schemas(inputs, ref_template=SCHEMAS + "{model}")
    text = json.dumps([made["$defs"], {topic: references[topic, mode] for topic in MESSAGES}])
    for name in made["$defs"]:
        text = re.sub(rf'(?<=["/]){name}(?=")', name.strip("_").replace("__", "_"), text)
    schemas, payloads = json.loads(text)
    return schemas, payloads


def _samples() -> dict[str, list[Json]]:
    found = defaultdict(list)
    for path in sorted(SAMPLES.glob("*.json")):
        sample = json.loads(path.read_text())
        found[sample["event_type"]].append(sample)
    return found


def _configuration(topic: str) -> Json:
    return {name: int(value) for name, value in kafka.TOPICS[topic].items()}


def _key(topic: str) -> Json:
    ours = topic in topics.OUTGOING_TOPICS or topic == topics.BATCH_REGISTERED
    return {"type": "string", "description": "the batch id" if ours else "the file_upload_id"}


class _Indented(yaml.SafeDumper):
    """Lists stand within what they belong to; nothing is written as a reference to something before it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def documents() -> dict[Path, str]:
    """What each generated file must hold."""
    text = yaml.dump(asyncapi(), Dumper=_Indented, sort_keys=False, allow_unicode=True, width=100)
    page = ROOT / "docs" / "configuration.md"
    above = page.read_text().partition("| setting |")[0]
    return {
        ROOT / "docs" / "asyncapi.yaml": f"# Made by `make docs`; not to be changed by hand.\n{text}",
        page: above + settings_table(),
        ROOT / "docs" / "openapi.json": json.dumps(admin.document(), indent=2) + "\n",
    }


def main() -> int:
    """0 where all is as it must be, or has been written."""
    drifted = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in drifted:
            print(f"{path.relative_to(ROOT)} is not what the code says: make docs", file=sys.stderr)
        return 1 if drifted else 0
    for path in drifted:
        path.write_text(documents()[path])
        print(f"{path.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
