-- How many violations the tables show; none is right. Reads all batches that changed in the last hour: see the view.
-- Index: those of ops.invariant_violations. Locks: none.
select count(*) from ops.invariant_violations
