-- Blanks the personal data of one batch in all tables that have it: of all its uploads and of its registration
-- (`whole`), or of these texts and uploads only. This is the list of places: service/domain/personal_data.py names
-- their columns. What identifies a row, and its state, stays. Returns how many rows of each table it changed.
-- Index: batches_pkey, slots_pkey, pending_content_pkey, excess_content_pkey, validation_failures_pkey. Locks: the
-- rows; the caller holds the exclusive lock of the batch, and its counter row.
with slot as (
    update els.slots
    set original_file_name = '[erased]',
        tracestate = null
    where batch_id = :batch_id
        and state <> 'open'
        and (original_file_name <> '[erased]' or tracestate is not null)
        and (:whole::boolean or text_storage_id = any(:texts::text[]) or file_upload_id = any(:uploads::text[]))
    returning 1
),
pending as (
    update els.pending_content
    set original_file_name = '[erased]',
        tracestate = null
    where batch_id = :batch_id
        and (original_file_name <> '[erased]' or tracestate is not null)
        and (:whole::boolean or text_storage_id = any(:texts::text[]) or file_upload_id = any(:uploads::text[]))
    returning 1
),
excess as (
    update els.excess_content
    set original_file_name = '[erased]',
        tracestate = null
    where batch_id = :batch_id
        and (original_file_name <> '[erased]' or tracestate is not null)
        and (:whole::boolean or text_storage_id = any(:texts::text[]) or file_upload_id = any(:uploads::text[]))
    returning 1
),
failure as (
    update els.validation_failures
    set original_file_name = '[erased]',
        tracestate = null,
        error_detail = json_build_object(
            'error_code', error_detail -> 'error_code',
            'message', '[erased]',
            'correlation_id', error_detail -> 'correlation_id',
            'timestamp', error_detail -> 'timestamp',
            'service', null,
            'operation', null,
            'details', '{}'::json,
            'stack_trace', null,
            'trace_id', null,
            'span_id', null
        )
    where batch_id = :batch_id
        and (:whole::boolean or file_upload_id = any(:uploads::text[]))
        and (original_file_name <> '[erased]' or tracestate is not null or error_detail ->> 'message' <> '[erased]')
    returning 1
),
batch as (
    update els.batches
    set user_id = case when :whole::boolean then '[erased]' else user_id end,
        essay_instructions = case when :whole::boolean then '' else essay_instructions end,
        student_prompt_ref = case when not :whole::boolean then student_prompt_ref end,
        tracestate = case when not :whole::boolean then tracestate end,
        erased_at = transaction_timestamp()
    where batch_id = :batch_id
    returning 1
)
select
    (select count(*) from batch) as batches,
    (select count(*) from slot) as slots,
    (select count(*) from pending) as pending_content,
    (select count(*) from excess) as excess_content,
    (select count(*) from failure) as validation_failures
