-- Makes the next row of the outbox have a higher number than all that were published.
-- Index: none. Locks: none.
select setval('els.outbox_seq_seq', greatest(:seq, pg_sequence_last_value('els.outbox_seq_seq'), 1))
