-- Reads how many consecutive inputs of each topic were rejected, over all pods, whether the topic is paused, and
-- whether its rejections are skipped. A pause because of bytes is over once fewer were rejected within a day.
-- Index: rejected_bytes_pkey; of the first table it reads all, a row for each topic at most. Locks: none.
select
    topic, in_a_row,
    stopped_at is not null
    and (
        most_bytes is null
        or most_bytes <= (
            select sum(rejected_bytes.bytes)
            from els.rejected_bytes
            where rejected_bytes.topic = topic_refusals.topic
                and rejected_bytes.hour > transaction_timestamp() - interval '1 day'
        )
    ) is true,
    skips
from els.topic_refusals
where in_a_row > 0
    or stopped_at is not null
    or skips
