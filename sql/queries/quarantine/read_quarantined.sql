-- Returns all columns of one rejected input; `decoded` is its value with the escapes of JSON decoded, if it has any.
-- Index: quarantine_pkey. Locks: none.
select
    id, state, topic, "partition", "offset", key, value, headers, reason, error, first_seen_at, last_seen_at,
    deliveries, closed_at, batch_id, original_file_name, correlation_id, edited_value, fingerprint, erased_at, release,
    nullif(els.decoded(els.readable(value)), els.readable(value)) as decoded
from els.own_quarantine as quarantine
where id = :id
