-- Marks notices as seen: those of one kind, or all. Returns their numbers, kinds and texts.
-- Index: notices_open. Locks: the rows.
update els.notices
set acknowledged_at = transaction_timestamp()
where acknowledged_at is null
    and (:kind::text is null or kind = :kind)
returning id, kind, detail
