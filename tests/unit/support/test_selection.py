"""Tests that are left out have their row in docs/testing.md; tests that share a server share a worker."""

import ast
from pathlib import Path
from typing import Any, cast

import pytest
from xdist.scheduler import LoadGroupScheduling

from tests.support.selection import GROUPS

ROOT = Path(__file__).parents[3]


def reasons(file: Path) -> set[str]:
    """Those that a file gives, as the last argument of the marker or of `partly_in_test_all`."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    names = ("only_in_test_all", "partly_in_test_all")
    return {ast.literal_eval(call.args[-1]) for call in calls if ast.unparse(call.func).endswith(names)}


def test_every_reason_is_in_the_table() -> None:
    rows = (ROOT / "docs" / "testing.md").read_text().splitlines()
    table = {row.split("|")[3].strip() for row in rows if row.startswith("| `")}
    given = set[str]().union(*map(reasons, (ROOT / "tests").rglob("test_*.py")))
    assert given
    assert given <= table


def test_tests_that_share_a_server_share_a_worker(request: pytest.FixtureRequest) -> None:
    """Looks at the tests of this run, as xdist does."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("this run does not share out its tests by groups, as `make test` does")
    for item in request.session.items:
        groups = {GROUPS[name] for name in GROUPS.keys() & set(getattr(item, "fixturenames", ())) - {"strict_broker"}}
        scope = LoadGroupScheduling._split_scope(cast("Any", None), item.nodeid)
        assert not groups or scope.rstrip("0123456789") in groups
