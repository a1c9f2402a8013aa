"""Compares repeated inputs with the first ones, which remain in effect."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.domain.events import (
    LONGEST_ERROR,
    BatchRegistered,
    ContentProvisioned,
    Reason,
    Rejection,
)

NAMED_ESSAYS = 3
"""How many essay ids of each registration a conflict names."""


def conflict(first: Sequence[str], registration: BatchRegistered) -> Rejection:
    """Say in what the essay ids of a registration differ from the first ones of its batch, which are valid."""

    def missing(ids: Sequence[str], others: Sequence[str]) -> str:
        there = set(others)
        some = [each for each in ids if each not in there]
        named = f" ({', '.join(some[:NAMED_ESSAYS])}{', …' if len(some) > NAMED_ESSAYS else ''})" if some else ""
        return f"{len(some)} of its {len(ids)} ids{named}"

    ids = registration.essay_ids
    why = (
        f"batch {registration.batch_id} is registered with another set of essays; the first registration stands:"
        f" {missing(first, ids)} are missing in this one, and {missing(ids, first)} in the first"
    )
    return Rejection(Reason.CONFLICTING_REGISTRATION, why[:LONGEST_ERROR])


def differences(first: Mapping[str, object], registration: BatchRegistered) -> list[str]:
    """Return the names of the fields in which a repeated registration differs from the first."""
    return [name for name, value in first.items() if getattr(registration, name) != value]


class KnownFile(NamedTuple):
    """The file of a content that is recorded already. A field is None where only an output topic reports it."""

    file_upload_id: str | None
    content_md5_hash: str | None
    file_size_bytes: int | None


class FileDifference(NamedTuple):
    """A repeated content names another file than the first one, which remains in effect."""

    known: KnownFile
    repeat: ContentProvisioned
    fields: tuple[str, ...]
    """The fields of `KnownFile` that both state, differently."""


def file_difference(known: KnownFile, repeat: ContentProvisioned) -> FileDifference | None:
    """Compare the file of a repeated content with the first one."""
    fields = tuple(
        name
        for name in ("file_upload_id", "content_md5_hash", "file_size_bytes")
        if None not in (first := getattr(known, name), again := getattr(repeat, name)) and first != again
    )
    return FileDifference(known, repeat, fields) if fields else None
