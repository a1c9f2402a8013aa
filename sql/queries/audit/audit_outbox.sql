-- Reads all events that are not published yet, for an audit: as they are, where ops.outbox_events escapes characters.
-- Index: none, the whole outbox is read. Locks: none.
select
    unpublished.batch_id,
    split_part(line.event, '"', 8) as topic,
    line.event,
    unpublished.seq * 1000 + line.number - 1 as seq,
    unpublished.created_at
from els.unpublished
cross join lateral string_to_table(unpublished.events, E'\n') with ordinality as line (event, number)
