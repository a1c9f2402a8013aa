"""Defines which data are personal, blanks them in events, and finds the ids and names that a rejected input contains.

An erasure keeps what identifies a batch, an essay or an upload, so that a repeat is still a repeat, and blanks what
says something about a person. Times, sizes, counts, states and digests are neither, and are kept as well.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from service.domain.events import BatchRegistered, ContentProvisioned, Incoming, Upload, ValidationFailed

BLANK: Final = "[erased]"
"""In place of a file name, a user id or a message. Instructions become "", as where a registration has none."""

PERSONAL_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "batches": ("user_id", "essay_instructions", "student_prompt_ref", "tracestate"),
    "slots": ("original_file_name", "tracestate"),
    "pending_content": ("original_file_name", "tracestate"),
    "excess_content": ("original_file_name", "tracestate"),
    "validation_failures": ("original_file_name", "error_detail", "tracestate"),
    "incomplete_batches": ("announcements",),
    "outbox": ("payload", "tracestate"),
    "outbox_pages": ("events",),
    "quarantine": ("key", "value", "edited_value", "headers", "error", "original_file_name"),
    "operator_actions": ("why", "details"),
    "search": ("names",),
}
"""The columns with personal data, by table. Those of the outbox are not blanked: an erasure waits until it is empty."""

OTHER_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "batches": (
        "batch_id", "state", "essay_set", "course_code", "class_id", "org_id", "traceparent", "cancel_reason",
    ),
    "slots": (
        "batch_id", "essay_id", "state", "text_storage_id", "file_upload_id", "raw_file_storage_id",
        "content_md5_hash", "traceparent", "origin", "history",
    ),
    "pending_content": (
        "batch_id", "text_storage_id", "state", "file_upload_id", "raw_file_storage_id", "content_md5_hash",
        "traceparent", "origin", "history",
    ),
    "excess_content": (
        "batch_id", "text_storage_id", "reason", "file_upload_id", "raw_file_storage_id", "content_md5_hash",
        "traceparent", "origin", "history",
    ),
    "validation_failures": (
        "batch_id", "file_upload_id", "state", "raw_file_storage_id", "validation_error_code", "traceparent", "origin",
        "history",
    ),
    "confirmations": ("batch_id", "class_id", "state", "traceparent", "tracestate"),
    "incomplete_batches": ("batch_id",),
    "outbox": ("aggregatetype", "aggregateid", "type", "traceparent"),
    "outbox_pages": ("batch_id", "topics"),
    "outbox_blocked": ("batch_id", "topic", "error"),
    "quarantine": ("topic", "fingerprint", "state", "reason", "batch_id", "release"),
    "operator_actions": ("who", "action", "batch_id", "topic"),
    "erasures": ("digest", "key_id", "kind"),
    "erasure_keys": ("id", "key", "inner_pad", "outer_pad"),
    "topic_refusals": ("topic",),
    "rejected_bytes": ("topic",),
    "crash_marks": ("topic", "pod"),
    "policy": ("name",),
    "progress": ("topic", "record_digest"),
    "server_identity": ("identity",),
    "recovery": ("state", "why"),
    "lost_inputs": ("topic", "cause"),
    "output_topics": ("topic",),
    "purge_hold": ("why",),
    "search": ("batch_id", "ids", "prefixes"),
    "search_progress": ("after",),
    "pods": ("host", "release", "roles", "errors", "broker_error"),
    "notices": ("kind", "detail"),
    "input_topics": ("topic",),
    "skipped_inputs": ("topic",),
    "transfer": ("kind", "state", "origin"),
    "trimming": ("after",),
}  # fmt: skip
"""All other columns of text, JSON or bytes: identities, states, digests, and what the service itself has written."""

_T = TypeVar("_T", bound=Incoming)


def blanked(event: _T) -> _T:
    """Return the event without personal data. A confirmation has none that is stored."""
    match event:
        case BatchRegistered():
            return event._replace(user_id=BLANK, essay_instructions="", student_prompt_ref=None, tracestate=None)
        case ValidationFailed():
            detail = blanked_detail(event.error_detail)
            return event._replace(original_file_name=BLANK, error_detail=detail, tracestate=None)
        case ContentProvisioned():
            return event._replace(original_file_name=BLANK, tracestate=None)
    return event


def blanked_detail(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a failure with its code, correlation id and time only."""
    kept = {name: detail.get(name) for name in ("error_code", "correlation_id", "timestamp")}
    empty = dict.fromkeys(("service", "operation", "stack_trace", "trace_id", "span_id"))
    return {**empty, **kept, "message": BLANK, "details": {}}


_KEPT: Final = frozenset(
    (
        "batch_id", "entity_id", "essay_ids", "expected_essay_count", "course_code", "class_id", "org_id",
        "text_storage_id", "file_upload_id", "raw_file_storage_id", "file_size_bytes", "content_md5_hash",
        "correlation_id", "timestamp", "validation_error_code", "event",
    )
)  # fmt: skip


def blanked_value(value: bytes) -> bytes | None:
    """Return the value of a record that was accepted, with the fields that identify its event; None for any other."""
    try:
        envelope = orjson.loads(value)
        data = envelope["data"]
        kept: dict[str, Any] = {name: each for name, each in data.items() if name in _KEPT}
        blank = {"original_file_name": BLANK, "user_id": BLANK, "validation_error_detail": {"message": BLANK}}
        kept |= {name: each for name, each in blank.items() if name in data}
        if "associations" in data:
            kept["associations"] = [{}] * len(data["associations"])
        trace = {name: each for name, each in (envelope.get("metadata") or {}).items() if name == "traceparent"}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return orjson.dumps({**envelope, "data": kept, "metadata": trace})


class ErasedSubject(NamedTuple):
    """What an erasure is about, as a tombstone states it.

    `kind`: user, batch, part (of a batch), text, upload; mention (any id) and name (of a file) are about rejected
    inputs.
    """

    kind: str
    batch_id: str = ""
    name: str = ""


def subjects_of(upload: Upload) -> list[ErasedSubject]:
    """Return the tombstones that are about an upload, beside those of its batch."""
    subjects = [ErasedSubject("upload", upload.batch_id, upload.file_upload_id)]
    if isinstance(upload, ContentProvisioned):
        subjects.append(ErasedSubject("text", upload.batch_id, upload.text_storage_id))
    return subjects


MOST_MENTIONS: Final = 10_000
"""How many ids and names of a rejected input are compared: its named fields, then the first of all texts in it."""

EXAMINED_BYTES: Final = 512 * 1024
"""So many bytes of the beginning and of the end of a rejected value are searched."""

MOST_HEADERS: Final = 100

LONGEST_MENTION: Final = 1_024

SHORTEST_ELSEWHERE: Final = 8
"""Characters of an id or a name that is found outside of the fields that are known."""

_ID_FIELDS: Final = (
    "batch_id|entity_id|user_id|text_storage_id|file_upload_id|original_file_name|raw_file_storage_id|file_name"
)
_NAMED: Final = re.compile(rf'"(?:{_ID_FIELDS})"\s*:\s*"((?:[^"\\]|\\.)*)"')
_BATCH_ID: Final = re.compile(r'"(?:batch_id|entity_id)"\s*:\s*"((?:[^"\\]|\\.)+)"')
# First names of fields, and what says which kind of event it is, which are nobody's: "tim" is in `timestamp`. A text
# whose last quote is missing is matched, too: to search it again from each of its quotes would take a time that grows
# with the square of its length.
_QUOTED_OR_WORD: Final = re.compile(
    r'"(?:event_type|source_service|event)"\s*:\s*"[\w.:-]*"|"[a-z_]+"\s*:'
    r'|"((?:[^"\\]|\\.)*+)("?)|[^\s\x00-\x1f"\'<>{}\[\],;=\ufffd]+'
)
_WORD: Final = re.compile(r'[^\s\x00-\x1f"\'<>{}\[\],;=\ufffd]+')


class Mentions(NamedTuple):
    """What a rejected input contains that may identify somebody. `batch_id`: the first one that it names, else None."""

    texts: frozenset[str]
    batch_id: str | None


def mentions_in(key: bytes | None, *parts: bytes | None, headers: Iterable[bytes] = ()) -> Mentions:
    """Find ids and names in the key, in the parts of the value and in the headers of a record that may be anything.

    Outside of the key and of the fields that are known, a short text counts as nobody's id: a number may be anything.
    """
    given = "\n".join(_text_of(part) for part in parts if part)
    if '\\"' in given:  # perhaps JSON within a text of JSON, as a producer sends that encodes twice
        given = "\n".join([given, _ESCAPED.sub(lambda match: match[1] or "\n", given)])
    named = (match[1] for match in _NAMED.finditer(given))
    others = chain.from_iterable(map(_texts_of, _QUOTED_OR_WORD.finditer(given)))
    texts = chain(
        (text for text in map(_unescaped, named) if 0 < len(text) <= LONGEST_MENTION),
        (text for text in map(_unescaped, others) if SHORTEST_ELSEWHERE <= len(text) <= LONGEST_MENTION),
    )
    some = set(islice(texts, MOST_MENTIONS))
    if key and len(key) <= LONGEST_MENTION:
        some |= {_text_of(key), _unescaped(_text_of(key).strip('"'))}
    for each in islice(headers, MOST_HEADERS):
        if SHORTEST_ELSEWHERE <= len(each) <= LONGEST_MENTION:
            some.add(_unescaped(_text_of(each).strip('"')))
    batch = _BATCH_ID.search(given)
    return Mentions(frozenset(some), _unescaped(batch[1]) if batch else None)


def _texts_of(match: re.Match[str]) -> Iterable[str]:
    """Return a word, a text in quotes, or the words of one whose last quote is missing. Nothing of a field's name."""
    if match[1] is None:
        return () if match[0][0] == '"' else (match[0],)
    return (match[1],) if match[2] else _WORD.findall(match[1])


def _text_of(given: bytes) -> str:
    """Return bytes as text, in UTF-8, or in UTF-16 where they begin so or have as many NULs."""
    if given[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return given.decode("utf-16", "replace")
    if given.count(0) * 3 > len(given):
        return given.decode("utf-16-be" if given[0] == 0 else "utf-16-le", "replace")
    return given.decode("utf-8", "replace")


_ESCAPED: Final = re.compile(r'\\(["\\])|"')
_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\(.)")


def _unescaped(text: str) -> str:
    if "\\" in text:
        try:
            text = orjson.loads(f'"{text}"')
        except orjson.JSONDecodeError:
            text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)
    # What PostgreSQL can not hold is no id or name that was stored.
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def contains(text: str, name: str) -> bool:
    """Tell whether a text contains a name, in whatever case and normal form."""
    return _plain(name) in _plain(text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()
