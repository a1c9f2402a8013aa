-- Inserts what an operator did, a row for each batch, topic or other thing that it changed; in the transaction of the
-- change, as its last statement. Returns their time. Refuses while the database is behind its topics, so that the
-- change is rolled back.
-- Index: recovery_pkey, server_identity_pkey, operator_actions_pkey, operator_actions_at, operator_actions_batch.
-- Locks: the new rows.
insert into els.operator_actions (who, action, batch_id, topic, why, details)
select :who, :action, batch_id, topic, :why, details::jsonb
from unnest(:batch_ids::text[], :topics::text[], :details::text[]) as done (batch_id, topic, details)
where (select els.check_server())
returning at

