-- How many inputs of each topic were refused in a row, over all pods, and since when the topic is stopped.
-- Index: none, a row for each topic at most. Locks: none.
select topic, in_a_row, stopped_at is not null
from els.topic_refusals
where in_a_row > 0
    or stopped_at is not null
