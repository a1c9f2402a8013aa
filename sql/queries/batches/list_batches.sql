-- Returns a page of registered batches in the order of their ids: those in one state, of one user, of an age (seconds
-- since the registration), with an id after one id.
-- Index: batches_pkey. Locks: none.
select
    batch_id, state, expected, assigned, failed, expected - assigned - failed - withdrawn as open, registered_at,
    completed_at, timed_out_at, course_code, left(user_id, 255) as user_id, withdrawn, cancelled_at
from els.batches
where (:state::text is null or state = :state)
    and (:user_id::text is null or user_id = :user_id)
    and (:older_than::float8 is null or registered_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or registered_at > transaction_timestamp() - make_interval(secs => :newer_than))
    and (:after::text is null or batch_id > :after)
order by batch_id
limit :page
