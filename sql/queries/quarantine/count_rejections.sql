-- Counts consecutive rejections of topics, and the bytes of the new ones in this hour: the count starts again where a
-- valid record came (restarted), else it goes on. A topic that reaches the limit is paused, as is one of which more
-- bytes were rejected within a day; unless an operator skips the rejections up to the next valid record.
-- Index: topic_refusals_pkey, rejected_bytes_pkey. Locks: the topics' rows, in the order of their names.
with counted as materialized (
    select
        given.topic, given.in_a_row, given.bytes,
        given.bytes + coalesce(
            (
                select sum(earlier.bytes)
                from els.rejected_bytes as earlier
                where earlier.topic = given.topic
                    and earlier.hour > transaction_timestamp() - interval '1 day'
            ),
            0
        ) >= :most_bytes as has_many_bytes
    from unnest(:topics::text[], :in_a_row::bigint[], :bytes::bigint[]) as given (topic, in_a_row, bytes)
),
added as (
    insert into els.rejected_bytes (topic, hour, bytes)
    select topic, date_trunc('hour', transaction_timestamp()), bytes
    from counted
    where bytes > 0
    order by topic
    on conflict (topic, hour) do update
    set bytes = rejected_bytes.bytes + excluded.bytes
),
forgotten as (
    delete from els.rejected_bytes
    using counted
    where rejected_bytes.topic = any(array[counted.topic])
        and rejected_bytes.hour < transaction_timestamp() - interval '2 days'
)
insert into els.topic_refusals (topic, in_a_row, stopped_at, most_bytes)
select
    topic, in_a_row, case when in_a_row >= :limit or has_many_bytes then transaction_timestamp() end,
    case when has_many_bytes then :most_bytes end
from counted
order by topic
on conflict (topic) do update
set in_a_row = case
        when excluded.topic = any(:restarted::text[]) then excluded.in_a_row
        else topic_refusals.in_a_row + excluded.in_a_row
    end,
    stopped_at = case
        when excluded.topic = any(:restarted::text[]) then excluded.stopped_at
        when not topic_refusals.skips
            and (excluded.stopped_at is not null or topic_refusals.in_a_row + excluded.in_a_row >= :limit)
            then coalesce(topic_refusals.stopped_at, transaction_timestamp())
    end,
    most_bytes = excluded.most_bytes,
    skips = topic_refusals.skips and not excluded.topic = any(:restarted::text[])
returning topic, stopped_at is not null
