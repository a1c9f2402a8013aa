-- Finds the output topics that have partitions which relays do not use: as many as given, by default as relays found.
-- Index: none, a row for each output topic. Locks: none.
select known.topic, known.partitions as used_before, coalesce(noted.found, known.found)::integer as partitions
from els.output_topics as known
left join unnest(:topics::text[], :found::bigint[]) as noted (topic, found) on known.topic = noted.topic
where coalesce(noted.found, known.found) > known.partitions
order by known.topic
