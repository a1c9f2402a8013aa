-- Marks as seen what was reported as late so far and still waits, as acknowledge_expired does with what expired.
-- Returns up to when, and how many batches that are, of at most 50,000; nothing where there are none.
-- Index: expired_seen_pkey, batches_late_reported. Locks: the row.
with unseen as (
    select timed_out_at
    from els.own_batches as batches
    where state = 'registered'
        and timed_out_at > (select late_until from els.expired_seen)
    order by timed_out_at desc
    limit 50000
)
update els.expired_seen
set late_until = (select max(timed_out_at) from unseen)
where exists (select from unseen)
returning late_until, (select count(*) from unseen)
