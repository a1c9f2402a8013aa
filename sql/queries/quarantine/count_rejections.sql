-- Counts consecutive rejections of topics: the count starts again where a valid record came (restarted), else it goes
-- on. A topic that reaches the limit is paused.
-- Index: topic_refusals_pkey. Locks: the topics' rows, in the order of their names.
insert into els.topic_refusals (topic, in_a_row, stopped_at)
select topic, in_a_row, case when in_a_row >= :limit then transaction_timestamp() end
from unnest(:topics::text[], :in_a_row::bigint[]) as counted (topic, in_a_row)
order by topic
on conflict (topic) do update
set in_a_row = case
        when excluded.topic = any(:restarted::text[]) then excluded.in_a_row
        else topic_refusals.in_a_row + excluded.in_a_row
    end,
    stopped_at = case
        when excluded.topic = any(:restarted::text[]) then excluded.stopped_at
        when topic_refusals.in_a_row + excluded.in_a_row >= :limit
            then coalesce(topic_refusals.stopped_at, transaction_timestamp())
    end
returning topic, stopped_at is not null
