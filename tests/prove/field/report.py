"""Keeps the results of cells in a report: Markdown for people, and JSON beside it, which later runs add to.

`python -m tests.prove.field.report REPORT.md SOME.json …` puts the results of several runs into one report.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.prove.field.play import Outcome

ROOT: Final = Path(__file__).parents[3]

Result = Mapping[str, Any]
"""An outcome as JSON: numbers for the long lists, and the first findings."""


def this_run() -> dict[str, str]:
    """Returns the commit that is checked out, with a + where files differ from it, and the time."""
    commit = _git("rev-parse", "--short", "HEAD") + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {"commit": commit, "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}"}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


class Report:
    """The results of a file, the last one of each cell."""

    def __init__(self, file: Path, sources: Iterable[Path] = ()) -> None:
        """`file` ends with .md. Begins with what its JSON and the sources contain."""
        self._file = file
        self._results: dict[tuple[str, str], Result] = {}
        for source in (file.with_suffix(".json"), *sources):
            for result in json.loads(source.read_text()) if source.exists() else ():
                self._add(result)

    def has(self, cell: str, environment: str, commit: str) -> bool:
        """Returns whether the cell has passed at this commit."""
        found = self._results.get((cell, environment))
        return found is not None and bool(found["passed"]) and found.get("run", {}).get("commit") == commit

    def add(self, outcome: Outcome) -> None:
        """Adds an outcome, instead of an earlier one of its cell, and writes the files."""
        self._add(_result(outcome))
        self.write()

    def write(self) -> None:
        """Writes both files."""
        results = list(self._results.values())
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("\n".join(_lines(results)).rstrip() + "\n")
        self._file.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")

    def _add(self, result: Result) -> None:
        key = (result["cell"], result["environment"])
        before = self._results.get(key)
        if before is None or before.get("run", {}).get("at", "") <= result.get("run", {}).get("at", ""):
            self._results[key] = result


def _result(outcome: Outcome) -> Result:
    numbers = {"lost": len(outcome.lost), "contradicted": len(outcome.contradicted), "passed": outcome.passed}
    findings = [text[:300] for text in outcome.findings[:5]]
    return asdict(outcome) | numbers | {"findings": findings, "said": [text[:300] for text in outcome.said]}


def _lines(results: Sequence[Result]) -> Iterable[str]:
    failed = [each for each in results if not each["passed"]]
    yield from (
        f"# {datetime.now(UTC):%Y-%m-%d}: the field",
        "",
        f"{len(results)} cells, {sum(each['inputs'] for each in results):,} inputs. {len(failed)} cells failed.",
        "",
        "An independent judge (`tests/prove/field/judge.py`) compares topics and tables. *Lost*: inputs without an",
        "outcome. *Contradicted*: events and rows that cannot all be true. *Repeated*: events that were published",
        "again (allowed). *Reported*: seconds from the beginning of the fault until `/readyz`, `ops.health` or a",
        "command named it; a dash where nothing need be. *Ready again*: seconds from the end of the fault until a new",
        "batch was ready. *Commit*: that of the service; + where files differed from it.",
        "",
        "| cell | environment | inputs | lost | contradicted | repeated | reported, s | ready again, s | commit | |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_line, results),
        "",
    )
    for each in failed:
        yield from (f"**{each['cell']}** ({each['environment']}), the first findings:", "")
        yield from (*(f"- `{text[:200]}`" for text in each["findings"][:3]), "")


def _line(result: Result) -> str:
    at, again = result["reported"], result["ready_again"]
    numbers = (
        *(result[name] for name in ("inputs", "lost", "contradicted", "repeated")),
        "–" if not result["must_report"] else "never" if at is None else f"{at:.1f}",
        "never" if again is None else f"{again:.1f}",
        result.get("run", {}).get("commit", "–"),
    )
    state = "; ".join(["passed" if result["passed"] else "**failed**", *result.get("notes", ())])
    return f"| {result['cell']} | {result['environment']} | {' | '.join(map(str, numbers))} | {state} |"


if __name__ == "__main__":
    Report(Path(sys.argv[1]), map(Path, sys.argv[2:])).write()
