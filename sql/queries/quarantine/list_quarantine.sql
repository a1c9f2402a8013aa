-- Returns a page of rejected inputs without their values, the newest first: of one topic, in one state, for one reason,
-- of an age (seconds since it was first rejected), below one id.
-- Index: quarantine_pkey. Locks: none.
select id, state, topic, "partition", "offset", reason, error, first_seen_at, deliveries
from els.quarantine
where (:topic::text is null or topic = :topic)
    and (:state::text is null or state = :state)
    and (:reason::text is null or reason = :reason)
    and (:older_than::float8 is null or first_seen_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or first_seen_at > transaction_timestamp() - make_interval(secs => :newer_than))
    and (:before::bigint is null or id < :before)
order by id desc
limit :page
