"""Blanks the announcements and inputs of what was erased, before a recovery compares them with what is stored."""

from collections.abc import Iterable, Iterator
from typing import Any

from psycopg import AsyncConnection

from service.domain.personal_data import BLANK, ErasedSubject, blanked, blanked_detail
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_ERRORS, VALIDATION_FAILED
from service.recovery.facts import Published, Received
from service.store import erasures
from service.store.erasures import ErasedUploads

FactPage = list[tuple[str, list[Published], list[Received]]]


async def blank_facts(conn: AsyncConnection[Any], page: FactPage) -> tuple[FactPage, dict[str, ErasedUploads]]:
    """Blank the facts of a page of batches. Returns them, and what is erased of which batch."""
    if not await erasures.has_erasures(conn):
        return page, {}
    subjects = {ErasedSubject("batch", batch_id) for batch_id, _, _ in page}
    users = {batch_id: set(_users(received)) for batch_id, _, received in page}
    subjects |= {user for some in users.values() for user in some}
    found = await erasures.find_erased(conn, subjects)
    of_users = [batch_id for batch_id, some in users.items() if some & found.keys()]
    new = [
        each
        for batch_id in of_users
        for each in (ErasedSubject("batch", batch_id), ErasedSubject("mention", "", batch_id))
    ]
    await erasures.insert_erasures(conn, new)
    kinds = {each.batch_id: kind for each, kind in found.items() if each.kind == "batch"}
    kinds |= dict.fromkeys(of_users, "batch")
    uploads = {
        subject
        for batch_id, announcements, received in page
        if kinds.get(batch_id) == "part"
        for subject in _uploads(batch_id, [*announcements, *received])
    }
    parts = await erasures.find_erased(conn, uploads)
    erased = {
        batch_id: ErasedUploads(
            kind == "batch",
            frozenset(each.name for each in parts if (each.kind, each.batch_id) == ("text", batch_id)),
            frozenset(each.name for each in parts if (each.kind, each.batch_id) == ("upload", batch_id)),
        )
        for batch_id, kind in kinds.items()
    }
    blank = [
        (
            batch_id,
            [blank_announcement(each, erased[batch_id]) for each in announcements],
            [_blank_input(batch_id, each, erased[batch_id]) for each in received],
        )
        if batch_id in erased
        else (batch_id, announcements, received)
        for batch_id, announcements, received in page
    ]
    return blank, erased


def _users(received: Iterable[Received]) -> Iterator[ErasedSubject]:
    for each in received:
        if each.topic == BATCH_REGISTERED:
            yield ErasedSubject("user", "", each.named("user_id"))


def _uploads(batch_id: str, facts: Iterable[Published | Received]) -> Iterator[ErasedSubject]:
    for fact in facts:
        for kind, name in (("text", "text_storage_id"), ("upload", "file_upload_id")):
            if fact.has(name) and isinstance(fact.named(name), str):
                yield ErasedSubject(kind, batch_id, fact.named(name))
        if fact.topic == VALIDATION_ERRORS:
            for each in fact.named("failed_essays"):
                yield ErasedSubject("upload", batch_id, str(each.get("essay_id")))


def blank_announcement(announced: Published, erased: ErasedUploads) -> Published:
    """Return an announcement without personal data, where it is about something that is erased."""
    is_erased = _is_erased(announced, erased)
    if announced.topic == VALIDATION_ERRORS:
        failed = [
            each | {"file_name": BLANK, "error_detail": blanked_detail(_dict(each.get("error_detail")))}
            if erased.whole or each.get("essay_id") in erased.uploads
            else each
            for each in announced.named("failed_essays")
        ]
        announced = announced.replaced(failed_essays=failed)
    elif is_erased and announced.has("original_file_name"):
        announced = announced.replaced(original_file_name=BLANK)
    return announced._replace(tracestate=None) if is_erased else announced


def _blank_input(batch_id: str, received: Received, erased: ErasedUploads) -> Received:
    if not _is_erased(received, erased):
        return received
    if received.topic == BATCH_REGISTERED:
        event: Any = blanked(received.registration(batch_id))
        return received.replaced(
            user_id=event.user_id,
            essay_instructions=event.essay_instructions,
            student_prompt_ref=event.student_prompt_ref,
            tracestate=None,
        )
    if received.topic == VALIDATION_FAILED:
        detail = blanked_detail(received.named("error_detail"))
        return received.replaced(original_file_name=BLANK, error_detail=detail, tracestate=None)
    if received.topic == CONTENT_PROVISIONED:
        return received.replaced(original_file_name=BLANK, tracestate=None)
    return received


def _is_erased(fact: Published | Received, erased: ErasedUploads) -> bool:
    return erased.whole or any(
        fact.has(name) and fact.named(name) in ids
        for name, ids in (("text_storage_id", erased.texts), ("file_upload_id", erased.uploads))
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
