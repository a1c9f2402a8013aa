"""Decides what the slots without announced content hold, where the end of their batch was announced."""

from collections.abc import Iterable, Mapping, Sequence

from service.recovery.announced import Announced
from service.store.recovery import StoredSlot


def slots_of_an_end(
    known: Announced,
    failures: Sequence[str],
    stored: Iterable[StoredSlot],
    essay_ids: Sequence[str],
    kept: Mapping[str, StoredSlot],
) -> tuple[dict[str, StoredSlot], list[str]]:
    """Return these slots by essay, and contradictions.

    Failed uploads were announced in slot order, and a completion lists all content. `failures` are the uploads that are
    known to have failed; `kept` are the stored slots that may stay.
    """
    slots = {} if known.listed else {key: slot for key, slot in kept.items() if slot.state == "assigned"}
    positions = {essay_id: position for position, essay_id in enumerate(essay_ids, start=1)}
    left = [essay_id for essay_id in essay_ids if essay_id not in known.slots and essay_id not in slots]
    before = {slot.essay_id: slot for slot in stored if slot.state == "failed"}
    is_counted = known.cancelled is not None and not (known.completed or known.errors)
    most = known.cancelled.named("failed_count") if known.cancelled and is_counted else len(left)
    if not known.errors:  # they may have been announced before what is read
        stay = [essay_id for essay_id in left if essay_id in before][:most]
        slots |= {essay_id: before[essay_id] for essay_id in stay}
        left = [essay_id for essay_id in left if essay_id not in stay]
        most -= len(stay)
    uploads = list(dict.fromkeys(each["essay_id"] for each in known.failures))
    if is_counted:
        # A batch that is cancelled before it is complete announces only how many failed: they are the first.
        recorded = {slot.file_upload_id for slot in slots.values()}
        uploads = [upload for upload in failures if upload not in recorded][:most]
    for essay_id, upload in zip(left, uploads, strict=False):
        failed = StoredSlot(essay_id, positions[essay_id], "failed", None, upload, known.completed_at)
        same = essay_id in before and before[essay_id].file_upload_id == upload
        slots[essay_id] = before[essay_id] if same else failed
    # The slots that are left must stay without content: the batch would be announced with another list.
    slots |= {essay_id: StoredSlot(essay_id, positions[essay_id], "withdrawn") for essay_id in left[len(uploads) :]}
    # Only the announcement of its completion, of its failure or of its cancellation explains slots without content; or
    # that of its errors where the completion did not follow, which is the first that is published of a close.
    was_closed = known.completed or known.cancelled or (known.errors and not known.ready)
    if len(uploads) > len(left) or (len(uploads) < len(left) and not was_closed):
        what = f"it was announced as complete with {len(uploads)} failures, and has {len(left)} slots without content"
        return slots, [what]
    return slots, []
