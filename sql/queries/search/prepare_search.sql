-- Lets the statements of this transaction read whole tables where no index leads to what is searched, in parallel, and
-- limits their time. Returns the time up to which the rows of the search have all changes.
-- Index: search_progress_pkey. Locks: none.
select
    coalesce((select known_until from els.search_progress where only_row), '1900-01-01'),
    set_config('statement_timeout', '30s', true), set_config('enable_seqscan', 'on', true),
    set_config('enable_bitmapscan', 'on', true), set_config('enable_hashjoin', 'on', true)
