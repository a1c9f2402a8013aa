-- Marks the next few records of a partition, before a pod that took over from a crashed one handles them: should it
-- crash, too, it was one of these. The number of crashes is kept only for the same single record, and for the same
-- batch that is unpacked.
-- Index: crash_marks_pkey. Locks: the row.
update els.crash_marks
set "offset" = :offset,
    records = :records,
    deaths = case
        when "offset" = :offset and records = :records and unpacking = :unpacking and (records = 1 or unpacking) then deaths
        else 0
    end,
    unpacking = :unpacking,
    in_hand = true,
    marked_at = transaction_timestamp()
where topic = :topic
    and "partition" = :partition
    and pod = :pod
