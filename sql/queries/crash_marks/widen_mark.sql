-- Makes a mark name the partition and no records: those that could crash a pod are handled.
-- Index: crash_marks_pkey. Locks: the row.
update els.crash_marks
set "offset" = 0,
    records = null,
    deaths = 0,
    unpacking = false,
    in_hand = false,
    marked_at = transaction_timestamp()
where topic = :topic
    and "partition" = :partition
    and pod = :pod
