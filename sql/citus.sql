-- How the tables distribute where one PostgreSQL is not enough: run once, by the owner, in a database that has the
-- extension citus, after `migrate` and before the first pod.
--
-- All that belongs to a batch lies on the node of its batch, so that a transaction of one batch is a transaction of
-- one node. What belongs to no batch is small, and stays where the pods connect to, on the coordinator: there a lock
-- or a count that all pods share is one row, as it is without Citus. No key but those named here is unique over all.
--
--   create_distributed_table          the rows of a batch together, on the node that its id says
--   create_reference_table            a copy on each node: read beside distributed rows, written by hand
--   citus_add_local_table_to_metadata one copy, on the coordinator
--
-- Pods connect to the coordinator, all of them: seq of els.outbox and els.arrivals are drawn there, and their order
-- within a batch is the order of its commits only as long as one sequence gives them.
-- Before pods run on it: a poll of several batches locks rows of several nodes in one statement (claim_slots,
-- await_slots, lock_batch, hold_batches), or deletes them there (delete_batches), which Citus takes for one node at a
-- time. Those are then to be sent once for each batch, which the functions of service/store.py and
-- service/retention.py can do behind their signatures; locks stay in the same order,
-- since each list is in the order of batch ids. And `for update skip locked` is to be seen to skip on the node.
-- This file was read against the tables by tests/integration/test_distribution.py; it has not run on a Citus yet.

select create_distributed_table('els.batches', 'batch_id', colocate_with => 'none');
select create_distributed_table('els.slots', 'batch_id', colocate_with => 'els.batches');
select create_distributed_table('els.pending_content', 'batch_id', colocate_with => 'els.batches');
select create_distributed_table('els.excess_content', 'batch_id', colocate_with => 'els.batches');
select create_distributed_table('els.validation_failures', 'batch_id', colocate_with => 'els.batches');

-- Debezium's name for the batch id. The shards of the relay are a generated column, and go over all nodes.
select create_distributed_table('els.outbox', 'aggregateid', colocate_with => 'els.batches');
select create_distributed_table('els.outbox_blocked', 'batch_id', colocate_with => 'els.batches');

-- Views of a node's rows join it: how long content may wait.
select create_reference_table('els.policy');

-- Who publishes which shards: one row decides for all pods.
select citus_add_local_table_to_metadata('els.relays');
select citus_add_local_table_to_metadata('els.relay_shards');

-- By topic and by the record's bytes, which need not name any batch.
select citus_add_local_table_to_metadata('els.quarantine');
select citus_add_local_table_to_metadata('els.topic_refusals');
select citus_add_local_table_to_metadata('els.crash_marks');

-- In order of time, also of what concerned no batch.
select citus_add_local_table_to_metadata('els.operator_actions');

-- The migration's own.
select citus_add_local_table_to_metadata('els.alembic_version');
