"""Writes the documents that are made from the code: `make docs`. With --check it only says which have drifted.

docs/asyncapi.yaml comes from the models of `service.domain` and the samples of every event,
the table of docs/configuration.md from the fields of `service.settings`, docs/openapi.json from `service.http.admin`,
deploy/kubernetes/base/alerts.yaml from deploy/prometheus/alerts.yaml.
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

from docs.fields import FIELDS
from service.domain import contract, topics
from service.domain import incoming as events
from service.http import admin
from service.kafka import topics as kafka
from service.settings import settings_table

ROOT: Final = Path(__file__).parents[1]
SAMPLES: Final = ROOT / "tests" / "data" / "contract"
RULE: Final = ROOT / "deploy" / "kubernetes" / "base" / "alerts.yaml"
SCHEMAS: Final = "#/components/schemas/"

Json = dict[str, Any]

MESSAGES: Final = {
    topics.BATCH_REGISTERED: ("BatchEssaysRegistered", "A batch will hold these essays (from the Batch Orchestrator)."),
    topics.CONTENT_PROVISIONED: ("EssayContentProvisioned", "A batch has this text (from the File Service)."),
    topics.VALIDATION_FAILED: ("EssayValidationFailed", "An upload yields no text (from the File Service)."),
    topics.SLOT_ASSIGNED: ("EssaySlotAssigned", "A content has got its slot (to clients)."),
    topics.ASSOCIATIONS_CONFIRMED: (
        "StudentAssociationsConfirmed",
        "The students of a batch with a class are confirmed (from Class Management).",
    ),
    topics.BATCH_COMPLETED: (
        "BatchContentProvisioningCompleted",
        "Every slot is taken; lists the assigned ones (to the Batch Orchestrator).",
    ),
    topics.BATCH_READY: (
        "BatchEssaysReady",
        "A complete batch, with its class confirmed if it has one, may be processed (to the Batch Orchestrator).",
    ),
    topics.EXCESS_CONTENT: ("ExcessContentProvisioned", "A content found no open slot (to the Batch Orchestrator)."),
    topics.VALIDATION_ERRORS: (
        "BatchValidationErrors",
        "Every slot is taken, these by failures (to the Batch Orchestrator).",
    ),
    topics.PENDING_EXPIRED: (
        "PendingContentExpired",
        "A registration did not come in time (to the Batch Orchestrator and operators).",
    ),
    topics.READINESS_TIMEOUT: ("BatchReadinessTimeout", "A batch is not complete in time (to the Batch Orchestrator)."),
    topics.BATCH_CANCELLED: (
        "BatchCancelled",
        "An operator has cancelled a batch, of which nothing else follows (to the Batch Orchestrator and operators).",
    ),
}
"""Each topic's message: its name and what it says."""

HEADERS: Final = {
    "type": "object",
    "required": ["event_id", "event_type", "correlation_id"],
    "properties": {
        name: {"type": "string", "description": what}
        for name, what in (
            ("event_id", "the same as in the envelope"),
            ("event_type", "the same as in the envelope"),
            ("correlation_id", "the same as in the envelope"),
            ("source_service", "essay-lifecycle-service"),
            (
                "seq",
                "a decimal integer that orders the events of a batch, across topics; events of release 0.1 have none",
            ),
            ("traceparent", "W3C trace context, where it is known"),
            ("tracestate", "W3C trace context, where it is known"),
            ("trace_id", "the 32 hex digits of the trace, where it is known"),
        )
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
            "description": "Made from the code by `make docs`. The ids and times of the samples are placeholders. "
            "The rules that no schema can express (which of two names of a "
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
        text = re.sub(rf'(?<=["/]){name}(?=")', _name_of(name), text)
    schemas, payloads = json.loads(text)
    for name, schema in schemas.items():
        _describe(name, schema)
    for topic, payload in payloads.items():
        _restrict(topic, schemas, payload["$ref"].removeprefix(SCHEMAS))
    return schemas, payloads


def _name_of(model: str) -> str:
    """A name that no other schema has: that of the message for an envelope, with `Data` for what is in it."""
    for topic, (message, _) in MESSAGES.items():
        data = _data_of(topic)
        if model in (f"Envelope_{data}_", f"IncomingEnvelope_{data}_"):
            return message
        if model == data:
            return f"{message}Data"
    return model


def _data_of(topic: str) -> str:
    known: Any = contract.DATA_OF.get(topic)
    return str((known or events.ENVELOPE_OF[topic].model_fields["data"].annotation).__name__)


def _describe(name: str, schema: Json) -> None:
    """Give a schema a title and a description, each of its fields a description, and times their format."""
    summary = next((summary for message, summary in MESSAGES.values() if name in (message, f"{message}Data")), None)
    schema |= {"title": name, "description": summary or FIELDS[name]}
    for field, value in schema.get("properties", {}).items():
        value.pop("title", None)
        if "$ref" in value:  # generators make a second model of a reference with a description
            continue
        if not {"type", "anyOf", "enum"} & value.keys():
            # Any value is accepted, and is ignored unless it is text. Generators want a type to make one of.
            value["anyOf"] = [{"type": "string"}, {"type": "null"}]
        value["description"] = FIELDS.get(f"{name}.{field}") or FIELDS[field]
        for each in (value, *value.get("anyOf", ())):
            if "[0-9]{2}:[0-9]{2}" in each.get("pattern", "").replace(r"\d\d", "[0-9]{2}"):
                each["format"] = "date-time"


def _restrict(topic: str, schemas: Json, name: str) -> None:
    """Add what no model states and a record is rejected for."""
    schemas[name]["properties"]["event_type"] |= {"const": topic}
    if topic not in topics.INCOMING_TOPICS:
        return
    schemas[name]["properties"]["schema_version"] |= {"const": topics.SCHEMA_VERSION}
    data = schemas[f"{name}Data"]
    # Not as `anyOf`, of which generators make two models.
    data["not"] = {"properties": {name: {"type": "null"} for name in ("batch_id", "entity_id")}}
    if topic == topics.BATCH_REGISTERED:
        data["properties"]["essay_ids"] |= {"minItems": 1, "maxItems": events.MOST_ESSAYS, "uniqueItems": True}
        data["properties"]["expected_essay_count"] |= {"minimum": 1, "maximum": events.MOST_ESSAYS}


def _samples() -> dict[str, list[Json]]:
    found = defaultdict(list)
    for path in sorted(SAMPLES.glob("*.json")):
        sample = json.loads(path.read_text())
        found[sample["event_type"]].append(sample)
    return found


def _configuration(topic: str) -> Json:
    return {name: int(value) for name, value in kafka.TOPICS[topic].items()}


def _key(topic: str) -> Json:
    ours = topic in topics.OUTGOING_TOPICS or topic in topics.LISTING_TOPICS
    return {"type": "string", "description": "the batch id" if ours else "the file_upload_id"}


class _Indented(yaml.SafeDumper):
    """Lists stand within what they belong to; nothing is written as a reference to something before it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def prometheus_rule() -> Json:
    """The rules of the alerts for the Prometheus operator, which has a kind of its own for them."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "els"},
        "spec": yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text()),
    }


def documents() -> dict[Path, str]:
    """What each generated file must hold."""
    text = _yaml(asyncapi())
    page = ROOT / "docs" / "configuration.md"
    above = page.read_text().partition("| setting |")[0]
    return {
        ROOT / "docs" / "asyncapi.yaml": f"# Made by `make docs`; not to be changed by hand.\n{text}",
        RULE: "# Made from deploy/prometheus/alerts.yaml by `make docs`; not to be changed by hand.\n"
        + _yaml(prometheus_rule()),
        page: above + settings_table(),
        ROOT / "docs" / "openapi.json": json.dumps(admin.document(), indent=2) + "\n",
    }


def _yaml(document: Json) -> str:
    return yaml.dump(document, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=100)


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
