-- A page of refused inputs without their values, the newest first; of one topic, in one state, below one id.
-- Index: quarantine_pkey. Locks: none.
select id, state, topic, "partition", "offset", reason, error, first_seen_at, deliveries
from els.quarantine
where (:topic::text is null or topic = :topic)
    and (:state::text is null or state = :state)
    and (:before::bigint is null or id < :before)
order by id desc
limit :page
