-- Finds the ids of open rejected inputs, the oldest first: those given by id, of one topic, for one reason, of an age,
-- above one id; at most so many (null: all).
-- Index: quarantine_open, or quarantine_pkey for given ids. Locks: none.
select id
from els.quarantine
where state = 'open'
    and (:ids::bigint[] is null or id = any(:ids))
    and (:topic::text is null or topic = :topic)
    and (:reason::text is null or reason = :reason)
    and (:older_than::float8 is null or first_seen_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or first_seen_at > transaction_timestamp() - make_interval(secs => :newer_than))
    and (:after::bigint is null or id > :after)
order by id
limit :most::bigint
