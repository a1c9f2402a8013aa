"""An integrator makes models of docs/asyncapi.yaml with public generators, for Python and for TypeScript.

Every sample is read with the Python models, and is a constant of its TypeScript interface. The interfaces accept and
reject what the document's schemas do, each field changed in turn.
"""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.local.processes import StackError
from docs import generate
from service.domain.topics import INCOMING_TOPICS
from tests.support.typescript import programs

DOCUMENT: dict[str, Any] = yaml.load((generate.ROOT / "docs" / "asyncapi.yaml").read_text(), yaml.CSafeLoader)
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def documented(program: str) -> list[str]:
    """The arguments that docs/events.md tells an integrator to give a program."""
    (line,) = re.findall(rf"(?m)^{program} (.+)$", (generate.ROOT / "docs" / "events.md").read_text())
    return shlex.split(line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the schemas are, made as docs/events.md says."""
    folder = tmp_path_factory.mktemp("models")
    page = (generate.ROOT / "docs" / "events.md").read_text()
    (script,) = re.findall(r"(?ms)^python -c '([^']+)' < docs/asyncapi\.yaml > schema\.json$", page)
    with (generate.ROOT / "docs" / "asyncapi.yaml").open() as document, (folder / "schema.json").open("w") as schema:
        subprocess.run([sys.executable, "-c", script], stdin=document, stdout=schema, check=True)
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """The models, as the generator has written them."""
    command = [sys.executable, "-m", "datamodel_code_generator", *documented("datamodel-codegen")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "models.py"


@pytest.fixture(scope="module")
def models(source: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated_models", source)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["generated_models"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_message_and_its_data_is_one_model_of_its_own_name(source: Path) -> None:
    classes = [each.name for each in ast.parse(source.read_text()).body if isinstance(each, ast.ClassDef)]
    assert [name for name, count in Counter(classes).items() if count > 1] == []
    assert {*MESSAGES, *(f"{name}Data" for name in MESSAGES)} <= set(classes)
    assert [name for name in classes if name[-1].isdigit() and name[:-1].endswith(("Data", "Envelope"))] == []


@pytest.mark.parametrize("name", MESSAGES)
def test_every_sample_is_read_with_the_generated_models(models: ModuleType, name: str) -> None:
    examples = [each["payload"] for each in MESSAGES[name]["examples"]]
    assert examples
    for example in examples:
        read = getattr(models, name).model_validate_json(json.dumps(example))
        assert read.event_type == example["event_type"]
        with pytest.raises(ValueError, match="data"):
            getattr(models, name).model_validate_json(json.dumps(example | {"data": {}}))


@pytest.fixture(scope="module")
def interfaces(typescript: None, folder: Path) -> Path:
    """The TypeScript models, as the generator has written them."""
    programs.generate(folder, *documented("npx json-schema-to-typescript"))
    return folder / "models.ts"


def compile_statements(interfaces: Path, name: str, statements: list[str]) -> None:
    imports = f"import type {{ {', '.join(MESSAGES)} }} from './models';\nlet _: unknown;\n"
    source = interfaces.with_name(f"{name}.ts")
    source.write_text(imports + "\n".join(statements))
    programs.compile_strictly(source)


def statement(message: str, value: Any) -> str:
    """One line of TypeScript: a constant is of the message's type, with no field that the type does not have."""
    return f"_ = {json.dumps(value)} satisfies {message};"


def accepted(message: str, value: Any) -> bool:
    schema = {"$ref": f"{generate.SCHEMAS}{message}", "components": DOCUMENT["components"]}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def samples() -> Iterator[tuple[str, Any]]:
    """Each message's name with each of its samples, of an input without the fields that the service ignores."""
    for name, message in MESSAGES.items():
        known = SCHEMAS[f"{name}Data"]["properties"]
        for example in (each["payload"] for each in message["examples"]):
            if message["name"] in INCOMING_TOPICS:
                yield name, example | {"data": {k: value for k, value in example["data"].items() if k in known}}
            else:
                yield name, example


def changed(value: Any) -> Iterator[Any]:
    """A sample once for each value in it: without it, and with null or a value of another type in its place."""
    for key, old in list(value.items() if isinstance(value, dict) else enumerate(value)):
        replacements: list[Any] = [None, {} if isinstance(old, (bool, int, str)) else 5]
        if isinstance(old, (dict, list)):
            replacements += changed(old)
        for new in replacements:
            yield value | {key: new} if isinstance(value, dict) else [*value[:key], new, *value[key + 1 :]]
        if isinstance(value, dict):
            yield {name: each for name, each in value.items() if name != key}


def test_each_message_and_its_data_is_one_interface_with_its_fields(interfaces: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", interfaces.read_text(), flags=re.DOTALL)
    declared = re.findall(r"^export (?:interface|type) (\w+)", text, re.MULTILINE)
    assert sorted(declared) == sorted([*SCHEMAS, "Schema"])
    assert re.findall(r"\bany\b", text) == []
    for name, schema in SCHEMAS.items():
        body = text.partition(f"export interface {name} {{\n")[2].partition("\n}")[0]
        fields = re.findall(r"^  (\w+)(\??):", body, re.MULTILINE)
        required = set(schema.get("required", ()))
        assert {field: not optional for field, optional in fields} == {
            field: field in required for field in schema["properties"]
        }


def test_every_sample_is_of_its_interface(interfaces: Path) -> None:
    compile_statements(interfaces, "samples", [statement(name, sample) for name, sample in samples()])


def test_the_interfaces_reject_what_the_document_rejects(interfaces: Path) -> None:
    lines = []
    for name, sample in samples():
        for each in changed(sample):
            data = each.get("data")
            if isinstance(data, dict) and not (data.get("batch_id") or data.get("entity_id")):
                continue  # no interface can say that one of the two is required
            if not accepted(name, each):
                lines.append("// @ts-expect-error")  # the compiler complains where there is no error below it
            lines.append(statement(name, each))
    assert len(lines) > 1000
    compile_statements(interfaces, "changed", lines)


def test_the_compiler_reports_a_wrong_sample(interfaces: Path) -> None:
    name, sample = next(samples())
    with pytest.raises(StackError, match=r"not assignable to type .*essays\.registered"):
        compile_statements(interfaces, "wrong", [statement(name, sample | {"event_type": 5})])
