-- Returns a page of registered batches, the newest first: those in some states, of an age (seconds since the
-- registration), only late ones (reported late, and still waiting), only those whose class is not confirmed within the
-- batch timeout, before one (by time and id).
-- Index: batches_listed, for each state. Locks: none.
select listed.*
from unnest(:states::text[]) as given (state)
cross join lateral (
    select
        batch_id, state, expected, assigned, failed, expected - assigned - failed - withdrawn as open, registered_at,
        completed_at, timed_out_at, course_code, left(user_id, 255) as user_id, withdrawn, cancelled_at,
        left(class_id, 255) as class_id, left(org_id, 255) as org_id
    from els.own_batches as batches
    where batches.state || '' = given.state
        and (not :late::boolean or timed_out_at is not null)
        and (
            not :unconfirmed::boolean
            or completed_at < transaction_timestamp() - (
                select make_interval(secs => policy.seconds)
                from els.policy
                where policy.name = 'batch_timeout'
            )
        )
        and (:older_than::float8 is null or registered_at < transaction_timestamp() - make_interval(secs => :older_than))
        and (:newer_than::float8 is null or registered_at > transaction_timestamp() - make_interval(secs => :newer_than))
        and (
            :before_time::timestamptz is null
            or registered_at <= :before_time and (registered_at, batch_id) < (:before_time, :before_id::text)
        )
    order by registered_at desc, batch_id desc
    limit :page
) as listed
order by listed.registered_at desc, listed.batch_id desc
limit :page
