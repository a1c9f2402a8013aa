"""What is known of the uploads of one batch: from their inputs, from the database, else from what was announced."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from service.domain.decisions import Register, essay_set_of
from service.domain.events import ValidationFailed
from service.domain.failure_events import ORIGINAL_CODE
from service.domain.json_limits import unstorable_part
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from service.recovery.announced import Announced
from service.recovery.facts import LONGEST_NAME, Received, text_of, time_of, uuid_of
from service.store import progress
from service.store.recovery import Content, Stored

BEGINNING: Final = datetime.min.replace(tzinfo=UTC)

_NO_DETAIL: Final[dict[str, Any]] = {"error_code": None, "message": "not known", "details": {}}


class Sources:
    """The inputs of a batch, in the order in which they were appended to their topics, behind what is stored."""

    def __init__(self, batch_id: str, announced: Announced, received: Iterable[Received], stored: Stored) -> None:
        self._registrations: list[Received] = []
        self.received: set[str] = set()
        """The contents that an input topic still has."""
        self._batch_id, self._announced = batch_id, announced
        self._contents: dict[str, list[Content]] = defaultdict(list)
        self._failures = {each.failure.file_upload_id: each.failure for each in stored.failures}
        for content in [*(slot.content for slot in stored.slots), *(each.content for each in stored.contents)]:
            if content is not None:
                self._contents[content.text_storage_id].append(content)
        for each in sorted(received, key=lambda record: record.order):
            if each.topic == CONTENT_PROVISIONED:
                self._contents[each.values[0]].append(each.content)
                self.received.add(each.values[0])
            elif each.topic == VALIDATION_FAILED:
                self._failures.setdefault(each.values[0], each.failure(batch_id))
            elif each.topic == BATCH_REGISTERED:
                self._registrations.append(each)
        removed = {each.failure.file_upload_id for each in stored.failures if each.state == "removed"}
        self.failed = tuple(upload for upload in self._failures if upload not in removed)
        """The uploads that are known to have failed and were not removed, in the order in which they came."""
        self._listed = {each["essay_id"]: each for each in reversed(announced.failures)}

    def registration(self, stored: Stored) -> tuple[tuple[str, ...], tuple[Register, datetime] | None]:
        """Return the essays of the batch in slot order, and its registration with a time, if it is not stored.

        The first registration that has all essays that were announced, also where another one is stored. () where no
        registration is known.
        """
        announced = self._announced.slots.keys()
        essay_ids = tuple(slot.essay_id for slot in stored.slots)
        fitting = [each for each in self._registrations if announced <= set(each.values[0])]
        if essay_ids and (announced <= set(essay_ids) or not fitting):
            return essay_ids, None
        for each in (fitting or self._registrations)[:1]:
            registration = each.registration(self._batch_id)
            register = Register(registration, essay_set_of(registration.essay_ids))
            return registration.essay_ids, (register, self._registered_at(each))
        return (), None

    def _registered_at(self, registration: Received) -> datetime:
        """Return a time that is not after the first announcement: the true one is in no topic."""
        known = self._announced
        ended = [each for each in (known.ended, known.timeout) if each]
        first = min(each.time for each in [*known.slots.values(), *known.excess.values(), *ended])
        received = progress.time_of(registration.at)
        return min(first, received) if received else first

    def content(self, text: str) -> Content:
        """Return what is known of a content that was announced."""
        announced, known = self._announced.contents[text], self._contents[text]
        for candidate in known:
            if announced.correlation_id is None or _is_announced(candidate, announced):  # None: only a list names it
                return candidate
        if not known:
            return announced
        # Its input was another one with the same text: what was announced counts.
        said = {name: value for name, value in announced._asdict().items() if value is not None}
        return known[0]._replace(**{"traceparent": None, "tracestate": None} | said)

    def failure(self, upload: str) -> ValidationFailed:
        """Return what is known of a failed upload that was announced."""
        if upload in self._failures:
            return self._failures[upload]
        listed, ended = self._listed.get(upload, {}), self._announced.ended
        stated = listed.get("error_detail")
        detail = {**_NO_DETAIL, **(stated if isinstance(stated, dict) and not unstorable_part(stated) else {})}
        detail["message"] = detail["message"] if isinstance(detail["message"], str) else "not known"
        return ValidationFailed(
            self._batch_id,
            upload,
            text_of(listed.get("file_name"), LONGEST_NAME) or "",
            None,  # type: ignore[arg-type]  # no output reports it
            _code_of(detail),
            detail,
            None,  # type: ignore[arg-type]
            time_of(listed.get("failed_at")) or self._announced.completed_at or BEGINNING,
            uuid_of(detail.get("correlation_id")) or uuid_of(ended and ended.correlation_id) or UUID(int=0),
            None,
            None,
        )


def _code_of(detail: dict[str, Any]) -> str:
    """Return the code of a failure: its own where the event keeps that, so that the event can be built again."""
    details = detail["details"]
    original = details.get(ORIGINAL_CODE) if isinstance(details, dict) else None
    return text_of(original) or text_of(detail["error_code"]) or "UNKNOWN_VALIDATION_ERROR"


def _is_announced(candidate: Content, announced: Content) -> bool:
    """Return whether an announcement is that of this content, as far as it states its fields."""
    return announced == candidate._replace(
        raw_file_storage_id=None,
        file_size_bytes=None,
        content_md5_hash=None,
        file_upload_id=announced.file_upload_id and candidate.file_upload_id,
    )
