-- Returns a page of open rejected inputs without their values, the newest first: of one topic, for one reason, below one
-- id.
-- Index: quarantine_open. Locks: none.
select id, state, topic, "partition", "offset", reason, left(error, 500) as error, first_seen_at, deliveries
from els.quarantine
where state = 'open'
    and (:topic::text is null or topic = :topic)
    and (:reason::text is null or reason = :reason)
    and (:before::bigint is null or id < :before)
order by id desc
limit :page
