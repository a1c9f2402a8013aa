"""The layout of the service stays as CONTRIBUTING says: small modules, small classes, one name for one thing."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import service

SERVICE = Path(service.__file__).parent
COMMON = {"_log", "_T"}
"""Names that every module may have."""


@cache
def modules() -> Mapping[Path, ast.Module]:
    return {path.relative_to(SERVICE): ast.parse(path.read_text()) for path in sorted(SERVICE.rglob("*.py"))}


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                yield path, node


def test_no_class_has_more_than_200_lines() -> None:
    lengths = {f"{path}: {node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in classes()}
    assert {name: length for name, length in lengths.items() if length > 200} == {}


def test_no_module_has_more_than_350_lines() -> None:
    lengths = {str(path): len((SERVICE / path).read_text().splitlines()) for path in modules()}
    assert {path: length for path, length in lengths.items() if length > 350} == {}


def test_no_class_or_constant_is_named_in_two_modules() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path, module in modules().items():
        for node in module.body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path))
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name) and target.id not in COMMON:
                        found[target.id].append(str(path))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_every_package_says_what_it_is_responsible_for() -> None:
    packages = [path for path in modules() if path.name == "__init__.py"]
    assert len(packages) > 12
    assert [path for path in packages if not ast.get_docstring(modules()[path])] == []
