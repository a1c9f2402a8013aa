"""Builds the OpenAPI 3.1 document of a list of endpoints, and an HTML page of it without scripts or external files."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

_REFERENCE = "#/components/schemas/"
Json = Mapping[str, Any]


class DocumentedEndpoint(Protocol):
    """Describes an endpoint. GET takes its parameters in the query, POST in a JSON body."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def request(self) -> type[BaseModel]: ...
    @property
    def response(self) -> type[BaseModel]: ...


def document(
    endpoints: Sequence[DocumentedEndpoint],
    *,
    title: str,
    version: str,
    description: str,
    problem: type[BaseModel],
    problems: Mapping[int, str],
) -> dict[str, Any]:
    """Build the document. Every response that is not a success has the model `problem`."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(problem, "serialization")]
    models += [(endpoint.request, "validation") for endpoint in endpoints if endpoint.method == "POST"]
    models += [(endpoint.response, "serialization") for endpoint in endpoints]
    _, schemas = models_json_schema(models, ref_template=_REFERENCE + "{model}")
    answers = {str(status): {"$ref": f"#/components/responses/{status}"} for status in problems}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, answers)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas["$defs"],
            "responses": {
                str(status): {"description": why, "content": _content(problem, "application/problem+json")}
                for status, why in problems.items()
            },
        },
    }


def _operation(endpoint: DocumentedEndpoint, problems: Json) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.path.removeprefix("/admin/").replace("/", "_"),
        "summary": endpoint.summary,
        "responses": {"200": {"description": "Done.", "content": _content(endpoint.response)}, **problems},
    }
    if endpoint.method == "GET":
        operation["parameters"] = _parameters(endpoint.request)
    else:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.request)}
    return operation


def _content(model: type[BaseModel], media: str = "application/json") -> dict[str, Any]:
    return {media: {"schema": {"$ref": _REFERENCE + model.__name__}}}


def _parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    parameters = []
    for name, field in schema["properties"].items():
        shown = {key: value for key, value in field.items() if key not in ("title", "description")}
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": shown}
        if "description" in field:
            parameter["description"] = field["description"]
        parameters.append(parameter)
    return parameters


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}"
    "h2{margin-top:2em;border-top:1px solid #ccc;padding-top:1em}h2 code{font-size:1.05em}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2em .8em .2em 0;"
    "border-bottom:1px solid #eee}code{font-family:ui-monospace,monospace}.kind{color:#666}"
)


def page(document: Json) -> str:
    """Render the document for people, as HTML."""
    info, schemas = document["info"], document["components"]["schemas"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])}</p><p>OpenAPI document: <a href=openapi.json>openapi.json</a></p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _shown(path, method, operation)
    parts.append("<h2>Models</h2>")
    for name, schema in sorted(schemas.items()):
        parts.append(f'<h3 id="{escape(name)}">{escape(name)}</h3>')
        required = schema.get("required", ())
        parts.append(_table([(key, each, key in required) for key, each in schema.get("properties", {}).items()]))
    parts.append("<h2>Errors</h2><table>")
    for status, response in document["components"]["responses"].items():
        parts.append(f"<tr><td><code>{status}</code><td>{escape(response['description'])}")
    return "\n".join([*parts, "</table></html>"])


def _shown(path: str, method: str, operation: Json) -> list[str]:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"]
    if parameters := operation.get("parameters"):
        parts.append(_table([(each["name"], each["schema"] | each, each["required"]) for each in parameters]))
    if body := operation.get("requestBody"):
        parts.append(f"<p>Request body: {_kind(body['content']['application/json']['schema'])}</p>")
    response = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return [*parts, f"<p>Response: {_kind(response)}</p>"]


def _table(rows: Sequence[tuple[str, Json, bool]]) -> str:
    lines = ["<table>"]
    for name, schema, required in rows:
        kind = _kind(schema.get("schema", schema))
        marked = " <b>required</b>" if required else ""
        description = escape(str(schema.get("description", "")))
        lines.append(f"<tr><td><code>{escape(name)}</code><td class=kind>{kind}{marked}<td>{description}")
    return "".join([*lines, "</table>"])


def _kind(schema: Json) -> str:
    """Describe a schema in a few words, as HTML."""
    if reference := schema.get("$ref"):
        name = escape(reference.removeprefix(_REFERENCE))
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf"):
        return " or ".join(_kind(each) for each in choices)
    if values := schema.get("enum"):
        return escape(" | ".join(map(str, values)))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type", "anything")))
