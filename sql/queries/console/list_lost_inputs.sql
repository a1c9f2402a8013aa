-- Returns the latest losses of inputs, those that nobody has acknowledged first.
-- Index: none (losses are rare). Locks: none.
select id, topic, "partition", first_offset, records, cause, noticed_at, acknowledged_at
from ops.lost_inputs
order by (acknowledged_at is null) desc, id desc
limit :page
