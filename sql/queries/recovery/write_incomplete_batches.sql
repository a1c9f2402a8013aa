-- Notes batches that were announced, and whose registration is in no topic, with their announcements.
-- Index: incomplete_batches_pkey. Locks: the rows.
insert into els.incomplete_batches as incomplete_batches (batch_id, announcements)
select batch_id, announcements::json
from unnest(:batch_ids::text[], :announcements::text[]) as incomplete (batch_id, announcements)
on conflict (batch_id) do update
set announcements = excluded.announcements
