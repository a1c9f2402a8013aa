"""What `make test` leaves to `make test-all` has its row, with the reason, in docs/testing.md."""

import ast
from pathlib import Path

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
