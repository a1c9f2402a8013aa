-- Batches that should have been complete by now and were not reported yet, the oldest first, with their deciding rows
-- held: what is read of their slots afterwards is what the report says, and its outbox row keeps the order of commits.
-- One that somebody is working on is skipped, and found by the next round.
-- Index: batches_late. Locks: the rows, for no key update, skipping those that others hold.
select
    batch_id, expected, assigned, correlation_id, traceparent, tracestate
from els.batches
where state = 'registered'
    and timed_out_at is null
    and registered_at <= :due::timestamptz
order by registered_at
limit :page
for no key update skip locked
