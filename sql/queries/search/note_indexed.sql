-- Notes up to which batch id a pass has come; null: it is done, and all changes up to its end are known.
-- Index: search_progress_pkey. Locks: the row, held since begin_indexing.
update els.search_progress
set known_until = case when :after::text is null then pass_until else known_until end,
    pass_until = case when :after is not null then pass_until end,
    after = coalesce(:after, '')
where only_row
