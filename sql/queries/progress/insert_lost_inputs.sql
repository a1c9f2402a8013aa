-- Notes inputs that were deleted unread, or that a topic has no more.
-- Index: none. Locks: none.
insert into els.lost_inputs (topic, "partition", first_offset, next_offset, cause)
select topic, "partition", first_offset, next_offset, cause
from unnest(
    :topics::text[], :partitions::bigint[], :first_offsets::bigint[], :next_offsets::bigint[], :causes::text[]
) as lost (topic, "partition", first_offset, next_offset, cause)
