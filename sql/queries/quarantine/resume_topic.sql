-- Sets a stopped topic going again; its refusals in a row are counted anew.
-- Index: topic_refusals_pkey. Locks: the topic's row.
delete from els.topic_refusals
where topic = :topic
    and stopped_at is not null
returning topic
