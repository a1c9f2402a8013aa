-- Stores rejected inputs with all their bytes. The same input at another offset, or once more, raises the deliveries of
-- its one row, also where an operator has closed it, and fills what a former release could not read. Returns how often
-- each was delivered so far. Rows are numbered in the order of arrival, in which they may be replayed, and written in
-- the order of the key, so that pods wait for each other in one direction only.
-- Index: quarantine_fingerprint_key. Locks: the rows.
with numbered as materialized (
    select nextval('els.quarantine_id_seq') as id, arrived.*
    from (
        select *
        from unnest(
            :topics::text[], :fingerprints::bytea[], :partitions::bigint[], :offsets::bigint[], :keys::bytea[],
            :values::bytea[], :headers::text[], :reasons::text[], :errors::text[], :deliveries::bigint[],
            :batch_ids::text[], :original_file_names::text[], :correlation_ids::uuid[], :erased::boolean[]
        ) with ordinality as rejected (
            topic, fingerprint, "partition", "offset", key, value, headers, reason, error, deliveries, batch_id,
            original_file_name, correlation_id, is_erased, ordinal
        )
        order by ordinal
    ) as arrived
)
insert into els.quarantine (
    id, topic, fingerprint, "partition", "offset", key, value, headers, reason, error, first_seen_at, last_seen_at,
    deliveries, batch_id, original_file_name, correlation_id, erased_at, release
)
overriding system value
select
    id, topic, fingerprint, "partition", "offset", key, value, headers::jsonb, reason, error, transaction_timestamp(),
    transaction_timestamp(), deliveries, batch_id, original_file_name, correlation_id,
    case when is_erased then transaction_timestamp() end, :release::text
from numbered
order by topic, fingerprint
on conflict (topic, fingerprint) do update
set deliveries = quarantine.deliveries + excluded.deliveries,
    last_seen_at = transaction_timestamp(),
    batch_id = coalesce(quarantine.batch_id, excluded.batch_id),
    original_file_name = case
        when quarantine.erased_at is null then coalesce(quarantine.original_file_name, excluded.original_file_name)
    end,
    correlation_id = coalesce(quarantine.correlation_id, excluded.correlation_id)
returning topic, fingerprint, deliveries
