-- Returns a page of the log of operator actions, the newest first: of one person, one action, one batch, one topic,
-- since and until a time, below one id.
-- Index: operator_actions_pkey, or operator_actions_batch (of one batch). Locks: none.
select id, at, who, action, batch_id, topic, why, details
from els.own_operator_actions as operator_actions
where (:who::text is null or who = :who)
    and (:action::text is null or action = :action)
    and (:batch_id::text is null or batch_id = :batch_id)
    and (:topic::text is null or topic = :topic)
    and (:since::timestamptz is null or at >= :since)
    and (:until::timestamptz is null or at < :until)
    and (:before::bigint is null or id < :before)
order by id desc
limit :page
