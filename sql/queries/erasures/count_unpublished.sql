-- Counts the rows of the outbox that these batches have, and says whether one of the batches is blocked.
-- Index: outbox_pages_batch, outbox_pkey, outbox_blocked_pkey. Locks: none.
select
    (
        select count(*)
        from els.unpublished
        where batch_id = any(:batch_ids::text[])
    ),
    exists (
        select
        from els.outbox_blocked
        where batch_id = any(:batch_ids::text[])
    )
