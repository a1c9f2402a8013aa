-- Marks losses of inputs as seen: the given ones, or all. Returns their numbers and topics.
-- Index: lost_inputs_open. Locks: the rows.
update els.lost_inputs
set acknowledged_at = transaction_timestamp()
where acknowledged_at is null
    and (:ids::bigint[] is null or id = any(:ids))
returning id, topic
