-- Returns which of these validation failures are known, each named by its ordinal.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: validation_failures_pkey. Locks: none.
select arrived.ordinal
from unnest(:batch_ids::text[], :file_upload_ids::text[]) with ordinality
    as arrived (batch_id, file_upload_id, ordinal)
cross join lateral (
    select
    from els.validation_failures
    where validation_failures.batch_id = arrived.batch_id
        and validation_failures.file_upload_id = arrived.file_upload_id
    limit 1
) as known
