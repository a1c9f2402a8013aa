-- Sets options of one relay transaction; they end with it.
-- synchronous_commit: a crash of the server may lose what the relay writes. A lost delete publishes a row again with
-- the same event id, a lost lease is renewed.
-- Index: none. Locks: none.
select set_config('synchronous_commit', 'off', true)
