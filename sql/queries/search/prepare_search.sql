-- Lets the statements of this transaction read whole tables where no index leads to what is searched, in parallel, and
-- limits their time.
-- Index: none. Locks: none.
select
    set_config('statement_timeout', '30s', true), set_config('enable_seqscan', 'on', true),
    set_config('enable_bitmapscan', 'on', true), set_config('enable_hashjoin', 'on', true)
