-- Notes how many partitions output topics have, by the metadata of a relay. Of a topic that is new, or has fewer than
-- before, all are used from now on; those that are added to a known topic are used after `topics adopt`.
-- Index: output_topics_pkey. Locks: the rows that change, in the order of their topics.
insert into els.output_topics as known (topic, partitions, found)
select topic, found, found
from unnest(:topics::text[], :found::bigint[]) as noted (topic, found)
order by topic
on conflict (topic) do update
set partitions = least(known.partitions, excluded.found),
    found = excluded.found,
    found_at = excluded.found_at
where known.found <> excluded.found
