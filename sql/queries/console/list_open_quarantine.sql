-- Returns a page of open rejected inputs without their values, the newest first: of one topic, for one reason, by one
-- release (`unknown`: by one before 0.2.0), of an age (seconds since it was first rejected), of one batch, with a text
-- anywhere in the decoded key, value or error (among the newest `searched` of them), below one id.
-- Index: quarantine_open. Locks: none.
with found as (
    select *
    from els.own_quarantine as quarantine
    where state = 'open'
        and (:topic::text is null or topic = :topic)
        and (:reason::text is null or reason = :reason)
        and (:release::text is null or coalesce(release, 'unknown') = :release)
        and (:older_than::float8 is null or first_seen_at < transaction_timestamp() - make_interval(secs => :older_than))
        and (:newer_than::float8 is null or first_seen_at > transaction_timestamp() - make_interval(secs => :newer_than))
        and (:batch_id::text is null or batch_id = :batch_id)
        and (:before::bigint is null or id < :before)
    order by id desc
    limit case when :contains::text is null then :page::bigint else :searched::bigint end
)
select id, state, topic, "partition", "offset", reason, left(error, 500) as error, first_seen_at, deliveries, batch_id, coalesce(release, 'unknown') as release
from found
where :contains::text is null or els.mentions(key, value, error, :contains)
order by id desc
limit :page
