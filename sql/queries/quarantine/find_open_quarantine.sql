-- Finds the ids of open rejected inputs, the oldest first: those given by id, of one topic, for one reason, of an age,
-- by one release (`unknown`: by one before 0.2.0), of one batch, with a part of a file's name or of the decoded bytes,
-- above one id; at most so many (null: all).
-- Index: quarantine_open, quarantine_batch, or quarantine_pkey for given ids. Locks: none.
select id
from els.own_quarantine as quarantine
where state = 'open'
    and (:ids::bigint[] is null or id = any(:ids))
    and (:topic::text is null or topic = :topic)
    and (:reason::text is null or reason = :reason)
    and (:older_than::float8 is null or first_seen_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or first_seen_at > transaction_timestamp() - make_interval(secs => :newer_than))
    and (:batch_id::text is null or batch_id = :batch_id)
    and (:file::text is null or position(els.folded(:file) in els.folded(original_file_name)) > 0)
    and (:contains::text is null or els.mentions(key, value, error, :contains))
    and (:release::text is null or coalesce(release, 'unknown') = :release)
    and (:after::bigint is null or id > :after)
order by id
limit :most::bigint
