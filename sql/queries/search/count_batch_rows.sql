-- Counts what there is of a batch beside its slots, also where it is not registered.
-- Index: the primary keys, outbox_pages_batch, outbox_pkey. Locks: none.
select
    waiting.*,
    failures.*,
    (select count(*) from els.own_excess_content as excess_content where batch_id = :batch_id) as excess,
    (select count(*) from ops.outbox_events where batch_id = :batch_id) as to_be_published,
    exists (select from els.own_incomplete_batches as incomplete_batches where batch_id = :batch_id) as incomplete
from (
    select
        count(*) filter (where state = 'pending') as waiting_contents,
        count(*) filter (where state = 'expired') as expired_contents,
        count(*) filter (where state = 'removed') as removed_contents
    from els.own_pending_content as pending_content
    where batch_id = :batch_id
) as waiting
cross join (
    select
        count(*) filter (where state = 'pending') as waiting_failures,
        count(*) filter (where state = 'expired') as expired_failures,
        count(*) filter (where state = 'removed') as removed_failures,
        count(*) filter (where state = 'surplus') as surplus_failures
    from els.own_validation_failures as validation_failures
    where batch_id = :batch_id
) as failures
