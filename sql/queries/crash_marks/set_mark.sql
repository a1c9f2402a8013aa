-- Before a pod that follows a dead one takes the next few records of a partition: these are the ones, should it die
-- too. Deaths are kept for the same single record only.
-- Index: crash_marks_pkey. Locks: the row.
update els.crash_marks
set "offset" = :offset,
    records = :records,
    deaths = case when "offset" = :offset and records = 1 and :records = 1 then deaths else 0 end,
    in_hand = true,
    marked_at = transaction_timestamp()
where topic = :topic
    and "partition" = :partition
    and pod = :pod
