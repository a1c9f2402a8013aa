-- Counts the violations that the tables show; any other number than zero is an error. Reads all batches that changed in
-- the last hour: see the view.
-- Index: those of ops.invariant_violations. Locks: none.
select count(*) from ops.invariant_violations
