-- Counts the events that wait to be published, without those of a blocked row that are. Reads the whole outbox, which
-- holds nothing else.
-- Index: outbox_blocked_pkey. Locks: none.
select coalesce(sum(page.events - coalesce(blocked.acknowledged, 0)), 0)::bigint
from (
    select o.batch_id, o.seq, (select sum(topic.events) from els.topic_events(o.topics) as topic) as events
    from els.unpublished as o
) as page
left join els.outbox_blocked as blocked
    on blocked.batch_id = page.batch_id
    and blocked.seq = page.seq
