-- Reads how many partitions of each output topic relays use.
-- Index: none, a row for each output topic. Locks: none.
select topic, partitions
from els.output_topics
