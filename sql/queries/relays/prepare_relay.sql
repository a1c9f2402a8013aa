-- Settings of one relay transaction; they end with it. Locks: none.
-- synchronous_commit: what the relay writes may be lost in a crash of the server: a lost delete
-- repeats a row under its old id, a lost lease is renewed.
select set_config('synchronous_commit', 'off', true)
