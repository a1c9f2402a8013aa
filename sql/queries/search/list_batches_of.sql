-- Returns a page of registered batches as list_batches does, of one user, class or organisation: the rows of the search
-- say which batches may be theirs.
-- Index: batches_changed, batches_pkey; all of els.search is read. Locks: none.
with candidates as materialized (
    select batch_id, registered_at
    from els.search
    where (:user_id::text is null or position(int4send(hashtext(:user_id)) in ids) > 0)
        and (:class_id::text is null or position(int4send(hashtext(:class_id)) in ids) > 0)
        and (:org_id::text is null or position(int4send(hashtext(:org_id)) in ids) > 0)
    union
    select batch_id, registered_at
    from els.own_batches as batches
    where changed_at > :known_until::timestamptz
)
select listed.*
from (
    select batch_id
    from candidates
    where (:older_than::float8 is null or registered_at < transaction_timestamp() - make_interval(secs => :older_than))
        and (:newer_than::float8 is null or registered_at > transaction_timestamp() - make_interval(secs => :newer_than))
        and (
            :before_time::timestamptz is null
            or (registered_at, batch_id) < (:before_time, :before_id::text)
        )
    order by registered_at desc, batch_id desc
) as found
cross join lateral (
    select
        batch_id, state, expected, assigned, failed, expected - assigned - failed - withdrawn as open, registered_at,
        completed_at, timed_out_at, course_code, left(user_id, 255) as user_id, withdrawn, cancelled_at,
        left(class_id, 255) as class_id, left(org_id, 255) as org_id
    from els.own_batches as batches
    where batch_id = found.batch_id
        and state = any(:states::text[])
        and (not :late::boolean or timed_out_at is not null)
        and (
            not :unconfirmed::boolean
            or completed_at < transaction_timestamp() - (
                select make_interval(secs => policy.seconds)
                from els.policy
                where policy.name = 'batch_timeout'
            )
        )
        and (:user_id is null or user_id = :user_id)
        and (:class_id is null or class_id = :class_id)
        and (:org_id is null or org_id = :org_id)
) as listed
limit :page
