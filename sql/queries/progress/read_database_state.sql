-- Reads whether the database is behind or in recovery, whether the server is the one that was compared with the topics,
-- whether there is any batch, and whether the database holds another slice of the batches than this process.
-- Index: recovery_pkey, server_identity_pkey, batches_pkey. Locks: none.
select
    (select state from els.recovery) as state,
    (select why from els.recovery) as why,
    els.this_server() as identity,
    (select identity from els.server_identity) as known_identity,
    exists (select from els.batches) as has_batches,
    els.slice_error() as slice_error
