"""Says in words how a batch stands, and what an operator can do next: a command, where there is one."""

import shlex
from dataclasses import dataclass

from service.domain.events import Reason
from service.domain.personal_data import BLANK
from service.domain.topics import BATCH_REGISTERED
from service.postgres.queries import NamedRow


@dataclass(frozen=True, slots=True)
class Command:
    """A command that an operator can run next. Its text is the command line."""

    name: str
    subject: str = ""
    reason: str = ""

    def __str__(self) -> str:
        given = f" {shlex.quote(self.subject)}" if self.subject else ""
        reason = f" --reason {self.reason}" if self.reason else ""
        why = " --why '…'" if self.subject and not self.name.endswith(" show") else ""
        return f"els {self.name}{given}{reason}{why}"


Steps = tuple[str | Command, ...]
"""What to do next: one line, in parts."""

Advice = tuple[str, Steps]
"""How it stands, in one line, and what to do next."""


def advise(batch_id: str, batch: NamedRow | None, facts: NamedRow) -> Advice:
    """Return the advice on a batch, from its row (None: it is not registered) and what there is of it beside."""
    if batch is None:
        return _unregistered(batch_id, facts)
    said = f"{batch['assigned']} of {batch['expected']} slots are assigned, {batch['failed']} failed"
    if batch["withdrawn"]:
        said += f", {batch['withdrawn']} withdrawn"
    match batch["state"]:
        case "registered":
            return _registered(batch_id, batch, facts, f"{said}; {batch['open']} wait for uploads")
        case "complete":
            return _complete(batch_id, batch, facts, f"{said}; it waits for the confirmation of its class")
        case "cancelled":
            what = f"{said}; an operator cancelled it ({batch['cancel_reason']})"
            return _published(facts, what, ("nothing: it stays cancelled, and later uploads are excess",))
        case "failed":
            what = f"{said}; no text arrived, so BatchValidationErrors says so, and BatchEssaysReady is not sent"
            again = "the teacher uploads again, in a new batch; if its consumer lost the event: "
            return _published(facts, what, (again, Command("batches republish", batch_id)))
        case _:
            lost = "nothing; if its consumer lost the event: ", Command("batches republish", batch_id)
            return _published(facts, f"{said}; it is ready", lost)


def _open(facts: NamedRow, *, registrations: bool) -> NamedRow | None:
    """Return the newest open rejected registration, or another input; None where there is none."""
    rejected = (row for row in facts["rejected"] if row["state"] == "open")
    return next((row for row in rejected if (row["topic"] == BATCH_REGISTERED) == registrations), None)


def _look_at(rejected: NamedRow) -> Steps:
    """Return what to do with a rejected input."""
    if rejected["error"] == BLANK:
        return "it was erased, and cannot be replayed: ", Command("quarantine discard", str(rejected["id"]))
    return (Command("quarantine show", str(rejected["id"])),)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _uploads(facts: NamedRow, how: str) -> str:
    contents, failures = facts[f"{how}_contents"], facts[f"{how}_failures"]
    return f"{_counted(contents, 'content')} and {_counted(failures, 'validation failure')}"


def _unregistered(batch_id: str, facts: NamedRow) -> Advice:
    said = f"it is not registered; {_uploads(facts, 'waiting')} wait"
    if facts["expired_contents"] or facts["expired_failures"]:
        said += f", {_uploads(facts, 'expired')} expired"
    if facts["removed_contents"] or facts["removed_failures"]:
        said += f", {_uploads(facts, 'removed')} were removed"
    if facts["incomplete"]:
        return (
            f"it was announced, but its registration is in no topic; {_uploads(facts, 'waiting')} wait",
            ("have the Batch Orchestrator send the registration again, then: ", Command("recover")),
        )
    if rejected := _open(facts, registrations=True):
        return f"its registration was rejected; {_uploads(facts, 'waiting')} wait", _look_at(rejected)
    if (facts["expired_contents"] or facts["expired_failures"]) and not facts["waiting_contents"]:
        return said, (
            "ask the Batch Orchestrator for the registration, which takes what expired as well; if it will not come",
            " before ELS_EXPIRED_RETENTION_SECONDS: ",
            Command("pending restore", batch_id),
        )
    where = " shows whether the registration is still in Kafka; else ask the Batch Orchestrator"
    return said, (Command("top --once"), where)


def _registered(batch_id: str, batch: NamedRow, facts: NamedRow, said: str) -> Advice:
    if batch["timed_out_at"] is not None:
        said += ", and it was reported as late"
    if found := _rejected(batch_id, facts, said):
        return found
    return said, (
        Command("top --once"),
        " shows whether uploads are still in Kafka; else ask the File Service; if no more will come: ",
        Command("batches close", batch_id),
    )


def _complete(batch_id: str, batch: NamedRow, facts: NamedRow, said: str) -> Advice:
    if found := _rejected(batch_id, facts, said):
        return found
    return _published(facts, said, (f"ask Class Management to confirm class {batch['class_id']}",))


def _rejected(batch_id: str, facts: NamedRow, said: str) -> Advice | None:
    """Return what is said of a registered batch that is open, where an input of it was rejected."""
    if rejected := _open(facts, registrations=False):
        return f"{said}; an input of it was rejected", _look_at(rejected)
    if (rejected := _open(facts, registrations=True)) is None:
        return None
    said += f"; another registration of it was rejected ({rejected['reason']})"
    if rejected["reason"] != Reason.CONFLICTING_REGISTRATION or rejected["error"] == BLANK:
        return said, _look_at(rejected)
    return said, (
        Command("quarantine show", str(rejected["id"])),
        ", and ask the Batch Orchestrator which one is right; if that one: ",
        Command("batches cancel", batch_id, "WRONG_REGISTRATION"),
        "; then, in each case: ",
        Command("quarantine discard", str(rejected["id"])),
    )


def _published(facts: NamedRow, said: str, otherwise: Steps) -> Advice:
    """Return what is said of a batch that has announced something, unless its events are not published yet."""
    if blocked := facts["blocked"]:
        why = f"{said}; its events wait in the outbox and cannot be published: {blocked['error']}"
        row = f"row {blocked['seq']} of the outbox"
        what = f"mend that on {blocked['topic']}" if blocked["topic"] else f"{row} is no event: correct or delete it"
        return why, (f"{what} (docs/operations.md#elsoutboxblocked); the relay tries again by itself",)
    if waiting := facts["to_be_published"]:
        return (
            f"{said}; {_counted(waiting, 'event')} wait to be published",
            (Command("relay --once"), ", or see docs/operations.md#elsoutboxnotdraining"),
        )
    return said, otherwise
