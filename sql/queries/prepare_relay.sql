-- Settings of one relay transaction; they end with it. Locks: none.
-- synchronous_commit: what the relay writes may be lost in a crash of the server: a lost delete
-- repeats a row under its old id, a lost lease is renewed.
-- enable_*: the outbox is empty at one moment and holds millions of rows at the next, faster than
-- its statistics follow. A plan made while it was empty must be the plan for the millions: by index.
select
    set_config('synchronous_commit', 'off', true),
    set_config('enable_seqscan', 'off', true),
    set_config('enable_bitmapscan', 'off', true)
