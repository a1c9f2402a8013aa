-- Counts the published events that the tables do not contain: transactions that this database has lost. The number of a
-- row of the outbox may be ahead of what was used, by up to 32 after a crash, so it alone would miss the last ones. Old
-- events of batches that are not there count only by their numbers: the retention may have deleted the batches. What
-- was published before the server was compared last does not count: it was accepted then, or a recovery has ended
-- since.
-- Index: server_identity_pkey, batches_pkey, slots_pkey, excess_content_pkey, pending_content_pkey. Locks: none.
select count(*)
from unnest(
    :kinds::text[], :batch_ids::text[], :texts::text[], :essay_ids::text[], :seqs::bigint[], :milliseconds::bigint[]
) as event (kind, batch_id, text_storage_id, essay_id, seq, published_at)
left join els.batches on event.batch_id = batches.batch_id
where to_timestamp(event.published_at / 1000.0) >= coalesce((select max(checked_at) from els.server_identity), '-infinity')
    and (event.seq > coalesce(pg_sequence_last_value('els.outbox_seq_seq'), 0) or case
        when event.kind = 'expired' then not exists (
            select
            from els.pending_content
            where pending_content.batch_id = event.batch_id
                and pending_content.text_storage_id = event.text_storage_id
        ) and batches.batch_id is null and to_timestamp(event.published_at / 1000.0) > now() - interval '1 hour'
        when batches.batch_id is null then to_timestamp(event.published_at / 1000.0) > now() - interval '1 hour'
        when event.kind = 'slot' then not exists (
            select
            from els.slots
            where slots.batch_id = event.batch_id
                and slots.essay_id = event.essay_id
                and slots.text_storage_id = event.text_storage_id
        )
        when event.kind = 'excess' then not exists (
            select
            from els.excess_content
            where excess_content.batch_id = event.batch_id
                and excess_content.text_storage_id = event.text_storage_id
        )
        when event.kind = 'timeout' then batches.timed_out_at is null
        when event.kind = 'ready' then batches.state <> 'ready'
        when event.kind = 'cancelled' then batches.state <> 'cancelled'
        else batches.completed_at is null
    end)
