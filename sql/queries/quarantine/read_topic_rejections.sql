-- Reads how many consecutive inputs of each topic were rejected, over all pods, and whether the topic is paused.
-- Index: none, a row for each topic at most. Locks: none.
select topic, in_a_row, stopped_at is not null
from els.topic_refusals
where in_a_row > 0
    or stopped_at is not null
