-- Returns which of these contents are known, with their files: in a slot, in excess, or pending, expired or removed.
-- Each is named by its ordinal.
-- It does not see what an open transaction writes; the unique keys do, when the content is written.
-- Each probe is lateral, so that it stays a probe of an index whatever the planner believes of the tables.
-- Index: slots_content, excess_content_pkey, pending_content_pkey. Locks: none.
select arrived.ordinal, known.file_upload_id, known.content_md5_hash, known.file_size_bytes
from unnest(:batch_ids::text[], :text_storage_ids::text[]) with ordinality
    as arrived (batch_id, text_storage_id, ordinal)
cross join lateral (
    select slots.file_upload_id, slots.content_md5_hash, slots.file_size_bytes
    from els.slots
    where slots.batch_id = arrived.batch_id
        and slots.text_storage_id = arrived.text_storage_id
    union all
    select excess_content.file_upload_id, excess_content.content_md5_hash, excess_content.file_size_bytes
    from els.excess_content
    where excess_content.batch_id = arrived.batch_id
        and excess_content.text_storage_id = arrived.text_storage_id
    union all
    select pending_content.file_upload_id, pending_content.content_md5_hash, pending_content.file_size_bytes
    from els.pending_content
    where pending_content.batch_id = arrived.batch_id
        and pending_content.text_storage_id = arrived.text_storage_id
    limit 1
) as known
