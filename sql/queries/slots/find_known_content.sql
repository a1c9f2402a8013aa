-- Returns which of these contents are known: in a slot, excess, or removed by an operator. Each is named by its
-- ordinal.
-- It does not see what an open transaction writes; the unique keys do, when the content is written.
-- Each probe is lateral, so that it stays a probe of an index whatever the planner believes of the tables.
-- Index: slots_content, excess_content_pkey, pending_content_pkey. Locks: none.
select arrived.ordinal
from unnest(:batch_ids::text[], :text_storage_ids::text[]) with ordinality
    as arrived (batch_id, text_storage_id, ordinal)
cross join lateral (
    select
    from els.slots
    where slots.batch_id = arrived.batch_id
        and slots.text_storage_id = arrived.text_storage_id
    union all
    select
    from els.excess_content
    where excess_content.batch_id = arrived.batch_id
        and excess_content.text_storage_id = arrived.text_storage_id
    union all
    select
    from els.pending_content
    where pending_content.batch_id = arrived.batch_id
        and pending_content.text_storage_id = arrived.text_storage_id
    limit 1
) as known
