"""An integrator makes Python models of docs/asyncapi.yaml with a public generator, and reads every sample with them."""

import ast
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from docs import generate

DOCUMENT: dict[str, Any] = yaml.safe_load((generate.ROOT / "docs" / "asyncapi.yaml").read_text())
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, as the generator has written them."""
    folder = tmp_path_factory.mktemp("models")
    schemas = json.dumps(DOCUMENT["components"]["schemas"]).replace(generate.SCHEMAS, "#/$defs/")
    messages = {name: {"$ref": f"#/$defs/{name}"} for name in MESSAGES}
    schema = {"title": "AnyMessage", "type": "object", "properties": messages, "$defs": json.loads(schemas)}
    (folder / "schema.json").write_text(json.dumps(schema))
    command = [sys.executable, "-m", "datamodel_code_generator", "--input", "schema.json", "--output", "models.py"]
    options = ["--input-file-type", "jsonschema", "--output-model-type", "pydantic_v2.BaseModel"]
    subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)
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
