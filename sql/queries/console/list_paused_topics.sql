-- Returns the input topics that are paused.
-- Index: none (a row for each topic). Locks: none.
select topic, refusals, stopped_at, bytes
from ops.stopped_topics
order by topic
