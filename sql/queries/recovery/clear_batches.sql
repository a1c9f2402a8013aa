-- Takes out of these batches what a recovery writes anew, each by its keys (arrays in step, by kind: batch, slot,
-- content, failure, confirmation). A slot becomes open. A batch is deleted with its slots, and its confirmations wait
-- again. For a confirmation there is no key: all of its batch that changed nothing wait again, to be decided anew.
-- Index: batches_pkey, slots_pkey, confirmations_pkey, pending_content_pkey, excess_content_pkey,
-- validation_failures_pkey. Locks: the rows.
with cleared as (
    select *
    from unnest(:batch_ids::text[], :kinds::text[], :keys::text[]) as cleared (batch_id, kind, key)
),
batch as (
    delete from els.batches
    using cleared
    where cleared.kind = 'batch'
        and batches.batch_id = cleared.batch_id
),
slots_of_a_batch as (
    delete from els.slots
    using cleared
    where cleared.kind = 'batch'
        and slots.batch_id = cleared.batch_id
),
slot as (
    update els.slots
    set state = 'open',
        text_storage_id = null,
        file_upload_id = null,
        original_file_name = null,
        raw_file_storage_id = null,
        file_size_bytes = null,
        content_md5_hash = null,
        correlation_id = null,
        traceparent = null,
        tracestate = null,
        taken_at = null,
        origin = null,
        pending_at = null,
        history = null
    from cleared
    where cleared.kind = 'slot'
        and slots.batch_id = cleared.batch_id
        and slots.essay_id = cleared.key
),
confirmation as (
    update els.confirmations
    set state = 'pending'
    from cleared
    where confirmations.batch_id = cleared.batch_id
        and (cleared.kind = 'batch' or cleared.kind = 'confirmation' and confirmations.state = 'unused')
),
pending as (
    delete from els.pending_content
    using cleared
    where cleared.kind = 'content'
        and pending_content.batch_id = cleared.batch_id
        and pending_content.text_storage_id = cleared.key
),
excess as (
    delete from els.excess_content
    using cleared
    where cleared.kind = 'content'
        and excess_content.batch_id = cleared.batch_id
        and excess_content.text_storage_id = cleared.key
)
delete from els.validation_failures
using cleared
where cleared.kind = 'failure'
    and validation_failures.batch_id = cleared.batch_id
    and validation_failures.file_upload_id = cleared.key
