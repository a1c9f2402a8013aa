-- Counts the contents and failures that wait for each of these batches, up to a bound of each kind. A batch for which
-- more waits gets a transaction of its own.
-- Index: pending_content_order, validation_failures_order. Locks: none; the caller holds the exclusive locks of the
-- batches.
select asked.batch_id, content.items + failures.items
from unnest(:batch_ids::text[]) as asked (batch_id)
cross join lateral (
    select count(*) as items
    from (
        select
        from els.pending_content
        where pending_content.batch_id = asked.batch_id
            and pending_content.state <> 'removed'
        limit :bound
    ) as bounded
) as content
cross join lateral (
    select count(*) as items
    from (
        select
        from els.validation_failures
        where validation_failures.batch_id = asked.batch_id
            and validation_failures.state in ('pending', 'expired')
        limit :bound
    ) as bounded
) as failures
