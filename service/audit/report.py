"""Defines what an audit must know about its environment, and what it reports."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from service.audit.findings import UNKNOWN, Finding
from service.domain.input_limits import InputLimits
from service.postgres.pool import Database

EXAMPLES: Final = 20
"""How many findings of the rule `unknown` a report shows."""


@dataclass(frozen=True, slots=True)
class AuditedCell:
    """A database that is audited, and the consumer group of its pods."""

    database: Database
    group: str

    @property
    def number(self) -> int:
        """Returns the number of the cell; 0 where there are no cells."""
        return self.database.slice.cell


@dataclass(frozen=True, slots=True)
class Scope:
    """What the audit must know about the environment. Times are in seconds, sizes in bytes."""

    cells: Sequence[int]
    """For the remainder of a hash by their count, the number of the cell that has it, whichever are audited."""
    limits: InputLimits
    shortest_retention: float
    whole: bool = False
    """Whether the topics still contain everything that was ever published: what is missing is then a violation."""
    clocks_apart: float = 5.0


@dataclass(slots=True)
class Report:
    """What was read and found. `violations` counts all violations by rule, `findings` contains the first of them."""

    most: int = 1_000
    """How many findings are kept."""
    counts: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    unknown: int = 0
    examples: list[Finding] = field(default_factory=list)
    not_audited: dict[int, str] = field(default_factory=dict)
    """The cells that could not be asked, and why."""

    @property
    def clean(self) -> bool:
        """Returns whether everything was read, and no rule is violated."""
        return not self.violations and not self.not_audited

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "clean": self.clean,
            "violations": dict(self.violations),
            "findings": [finding._asdict() for finding in self.findings],
            "unknown": self.unknown,
            "examples_of_unknown": [finding._asdict() for finding in self.examples],
            "counts": dict(self.counts),
            "not_audited": [{"cell": cell, "error": why} for cell, why in sorted(self.not_audited.items())],
        }

    def add(self, *findings: Finding) -> None:
        """Count findings, and keep them while there are fewer than `most`."""
        for finding in findings:
            if finding.rule == UNKNOWN:
                self.unknown += 1
                if len(self.examples) < EXAMPLES:
                    self.examples.append(finding)
                continue
            self.violations[finding.rule] += 1
            if len(self.findings) < self.most:
                self.findings.append(finding)
