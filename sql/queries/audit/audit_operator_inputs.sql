-- Reads, for an audit, the values that operators have sent in place of rejected inputs, and skipped ones that they have
-- replayed: these are inputs, too.
-- Index: none, the whole table is read. Locks: none.
select topic, "partition", "offset", key, coalesce(edited_value, value), closed_at
from els.quarantine
where edited_value is not null
    or (
        state = 'replayed'
        and value is not null
        and exists (
            select
            from els.skipped_inputs as skipped
            where skipped.topic = quarantine.topic
                and skipped."partition" = quarantine."partition"
                and quarantine."offset" >= skipped.first_offset
                and quarantine."offset" < skipped.next_offset
        )
    )
