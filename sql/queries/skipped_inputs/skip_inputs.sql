-- Notes offsets that an operator has skipped, also as lost and seen. Returns whether they were not noted as lost yet.
-- Index: skipped_inputs_pkey; of lost inputs it reads all, a row for each loss. Locks: the new rows.
with skipped as (
    insert into els.skipped_inputs (topic, "partition", epoch, first_offset, next_offset)
    values (:topic, :partition, :epoch, :first_offset, :next_offset)
    on conflict (topic, "partition", epoch, first_offset) do nothing
),
lost as (
    insert into els.lost_inputs (topic, "partition", first_offset, next_offset, cause, acknowledged_at)
    select :topic, :partition, :first_offset, :next_offset, 'skipped', transaction_timestamp()
    where not exists (
        select
        from els.lost_inputs as known
        where known.topic = :topic
            and known."partition" = :partition
            and known.first_offset = :first_offset
            and known.cause = 'skipped'
    )
    returning id
)
select exists (select from lost)
