-- Counts the events that wait to be published. Reads the whole outbox, which holds nothing else.
-- Index: none. Locks: none.
select coalesce(sum(topic.events::bigint), 0)::bigint
from els.unpublished
cross join lateral jsonb_each_text(unpublished.topics) as topic (name, events)
