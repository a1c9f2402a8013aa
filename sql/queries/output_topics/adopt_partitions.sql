-- Makes relays use all partitions that output topics have. Returns the topics that change, with the number before.
-- Index: none, a row for each output topic. Locks: the rows that change, in the order of their topics.
with changing as materialized (
    select topic, partitions
    from els.output_topics
    where partitions <> found
    order by topic
    for update
)
update els.output_topics as known
set partitions = known.found
from changing
where changing.topic = known.topic
returning known.topic, changing.partitions as used_before, known.partitions
