-- Ends the pause of a topic; its consecutive rejections, and the bytes of the day, are counted from zero again. With
-- `skips`, rejections do not pause it before the next valid record.
-- Index: topic_refusals_pkey, rejected_bytes_pkey. Locks: the topic's rows.
with forgotten as (
    delete from els.rejected_bytes
    where topic = :topic
)
update els.topic_refusals
set in_a_row = 0,
    stopped_at = null,
    most_bytes = null,
    skips = :skips
where topic = :topic
    and stopped_at is not null
returning topic
