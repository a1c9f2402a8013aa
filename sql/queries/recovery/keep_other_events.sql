-- Inserts rows of the outbox again that delete_announced_events has deleted, with the events that are left of them.
-- Index: outbox_pages_pkey, outbox_pages_batch. Locks: the new rows.
insert into els.outbox_pages (seq, batch_id, topics, events, created_at)
select page.seq, page.batch_id, page.topics::jsonb, page.events, page.created_at
from unnest(
    :seqs::bigint[], :batch_ids::text[], :topics::text[], :events::text[], :times::timestamptz[]
) as page (seq, batch_id, topics, events, created_at)
