-- Ends the pause of a topic; its consecutive rejections are counted from zero again.
-- Index: topic_refusals_pkey. Locks: the topic's row.
delete from els.topic_refusals
where topic = :topic
    and stopped_at is not null
returning topic
