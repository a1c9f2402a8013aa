"""Reads the operator actions of the lost time, which are in no topic, and finds what a recovery must know of them.

They are performed again by `operators.repetition`, after the recovery. What they have done to inputs the recovery must
know before it decides anything: what was removed must not get a slot, a value that was corrected may have been
announced, and the records of a topic that was resumed are not held back.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson
from aiokafka import TopicPartition

from service.domain.events import ValidationFailed
from service.domain.input_limits import InputLimits
from service.domain.topics import CONTENT_PROVISIONED, INCOMING_TOPICS, VALIDATION_FAILED
from service.kafka.deliveries import decode
from service.kafka.unpacking import Record
from service.recovery.facts import Received, received_of
from service.store.recovery import Content
from service.store.skipped_inputs import SkippedRange

REMOVALS: Final = ("pending remove", "pending clear")

_LISTED: Final = ("text_storage_ids", "file_upload_ids")
_NUMBERS: Final = ("partition", "offset", *SkippedRange._fields)


class Act(NamedTuple):
    """One operator action: a row of ops.operator_actions, without its number. `at` is when it was performed first."""

    at: datetime
    who: str
    action: str
    batch_id: str | None
    topic: str | None
    why: str
    details: Mapping[str, Any]

    def __str__(self) -> str:
        subject = self.batch_id or self.topic or ""
        return f"{self.action} {subject} at {self.at.isoformat(timespec='seconds')} by {self.who}"


def read_acts(file: bytes) -> list[Act]:
    """Read actions, in the order of their times: each once, although an export and a log may both contain it.

    `file` has a JSON object in each line, of an export or of the log (whose other lines are left out), or is CSV with a
    line of names. Raises ValueError.
    """
    found: dict[bytes, Act] = {}
    for number, values in _rows(file):
        try:
            act = _act_of(values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"line {number} is not an operator action: {type(error).__name__}: {error}") from None
        found[orjson.dumps(tuple(act), option=orjson.OPT_SORT_KEYS)] = act
    return sorted(found.values(), key=lambda act: act.at)


def _rows(file: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    if file.startswith(b"id,"):
        for row in (reader := csv.DictReader(io.StringIO(file.decode()))):
            yield reader.line_num, row | {"details": orjson.loads(row["details"])}
        return
    for number, line in enumerate(file.splitlines(), start=1):
        if line.strip():
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from None
            if not isinstance(values, dict) or values.get("event", "operator_action") == "operator_action":
                yield number, values


def _act_of(values: dict[str, Any]) -> Act:
    if act := values.get("act"):  # the view replaces characters in its other columns
        values = orjson.loads(act)
    details = dict(values.get("details") or {})
    at = datetime.fromisoformat(details.pop("first_at", None) or values["at"])
    details.pop("repeated_by", None)
    if at.tzinfo is None:
        raise ValueError("its time has no zone")
    if not all(isinstance(values[name], str) for name in ("who", "action")):
        raise ValueError("who and action must be text")
    batch_id, topic = (values.get(name) or None for name in ("batch_id", "topic"))
    why = values.get("why") or ""
    stated = {name: value for name, value in details.items() if _is_stated(name, value)}
    return Act(at.astimezone(UTC), values["who"], values["action"], batch_id, topic, why, stated)


def _is_stated(name: str, value: Any) -> bool:
    """Tell whether a detail has its type: an erasure blanks those that contain the name of a person or file."""
    if name in _LISTED:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return name not in _NUMBERS or type(value) is int


@dataclass(slots=True)
class LostActs:
    """What a recovery must know of the actions, before it decides anything."""

    removed: Mapping[str, Mapping[str, datetime]] = field(default_factory=dict)
    """By batch and text: when the content was removed."""
    removed_failures: Mapping[str, Set[str]] = field(default_factory=dict)
    """By batch: the uploads of validation failures that were removed."""
    edited: Sequence[tuple[str, Received]] = ()
    """By batch: the inputs that operators have sent in place of rejected ones."""
    resumed: Mapping[str, bool] = field(default_factory=dict)
    """Topics whose pause was ended, and whether their rejections were skipped from then on."""
    skipped: Sequence[tuple[TopicPartition, SkippedRange]] = ()
    """Offsets that were skipped since they cannot be read."""
    received: dict[tuple[str, str], Content] = field(default_factory=dict)
    """By batch and text: content that was removed, as an input topic has it."""
    received_failures: dict[tuple[str, str], ValidationFailed] = field(default_factory=dict)
    """By batch and upload: failures that were removed, as an input topic has them."""

    def note(self, batch_id: str, received: Received) -> None:
        """Note an input, if it is content or a failure that was removed."""
        if received.topic == CONTENT_PROVISIONED and (texts := self.removed.get(batch_id)):
            content = received.content
            if content.text_storage_id in texts:
                self.received.setdefault((batch_id, content.text_storage_id), content)
        elif received.topic == VALIDATION_FAILED and (uploads := self.removed_failures.get(batch_id)):
            failure = received.failure(batch_id)
            if failure.file_upload_id in uploads:
                self.received_failures.setdefault((batch_id, failure.file_upload_id), failure)


def lost_acts(acts: Sequence[Act], limits: InputLimits) -> LostActs:
    """Find what a recovery must know of these actions."""
    removed: dict[str, dict[str, datetime]] = defaultdict(dict)
    failures: dict[str, set[str]] = defaultdict(set)
    edited: list[tuple[str, Received]] = []
    resumed: dict[str, bool] = {}
    skipped = []
    for number, act in enumerate(acts):
        if act.action in REMOVALS and act.batch_id is not None:
            removed[act.batch_id] |= dict.fromkeys(act.details.get("text_storage_ids", ()), act.at)
            failures[act.batch_id].update(act.details.get("file_upload_ids", ()))
        elif act.action == "quarantine edit" and act.topic in INCOMING_TOPICS:
            value = str(act.details.get("value", "")).encode("utf-8", "surrogatepass")
            record = Record(number, None, value, timestamp=int(act.at.timestamp() * 1000))
            if found := received_of(decode(act.topic, -1, record, limits)):
                edited.append(found)
        elif act.action == "quarantine resume" and act.topic is not None:
            resumed[act.topic] = bool(act.details.get("skip_refused"))
        elif act.action == "inputs skip" and act.topic is not None and set(_NUMBERS) <= act.details.keys():
            numbers = (act.details[name] for name in SkippedRange._fields)
            skipped.append((TopicPartition(act.topic, act.details["partition"]), SkippedRange(*numbers)))
    return LostActs(removed, failures, edited, resumed, skipped)
