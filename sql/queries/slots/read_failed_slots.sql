-- Reads every failed slot of one batch in slot order with its failure, for its BatchValidationErrors.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: slots_failure, validation_failures_pkey. Locks: none.
select
    failures.file_upload_id, failures.original_file_name, failures.validation_error_code, failures.error_detail,
    failures.failed_at, failures.correlation_id
from els.slots
inner join els.validation_failures as failures
    on failures.batch_id = any(array[slots.batch_id])
    and failures.file_upload_id = any(array[slots.file_upload_id])
where slots.batch_id = :batch_id
    and slots.state = 'failed'
order by slots.position
