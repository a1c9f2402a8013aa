-- The suspects of a partition are behind it: from here on its mark says nothing but whose it is.
-- Index: crash_marks_pkey. Locks: the row.
update els.crash_marks
set "offset" = 0,
    records = null,
    deaths = 0,
    in_hand = false,
    marked_at = transaction_timestamp()
where topic = :topic
    and "partition" = :partition
    and pod = :pod
