-- Lets the statements of this transaction read whole tables, which polls must not.
-- Index: none. Locks: none.
select
    set_config('enable_seqscan', 'on', true),
    set_config('enable_hashjoin', 'on', true)
