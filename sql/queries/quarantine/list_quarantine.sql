-- Returns a page of rejected inputs without their values, the newest first: of one topic, in one state, for one reason,
-- of an age (seconds since it was first rejected), by one release (`unknown`: by one before 0.2.0), of one batch, with
-- a part of a file's name, with a text anywhere in the decoded key, value or error; below one id. Case and form of the
-- letters make no difference.
-- Index: quarantine_pkey, or quarantine_batch (of one batch). Locks: none.
select
    id, state, topic, "partition", "offset", reason, error, first_seen_at, deliveries, batch_id,
    left(original_file_name, 255) as original_file_name, correlation_id, release
from els.own_quarantine as quarantine
where (:topic::text is null or topic = :topic)
    and (:state::text is null or state = :state)
    and (:reason::text is null or reason = :reason)
    and (:older_than::float8 is null or first_seen_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or first_seen_at > transaction_timestamp() - make_interval(secs => :newer_than))
    and (:batch_id::text is null or batch_id = :batch_id)
    and (:file::text is null or position(els.folded(:file) in els.folded(original_file_name)) > 0)
    and (:contains::text is null or els.mentions(key, value, error, :contains))
    and (:release::text is null or coalesce(release, 'unknown') = :release)
    and (:before::bigint is null or id < :before)
order by id desc
limit :page
