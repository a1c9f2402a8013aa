-- Grants all privileges. Every upgrade revokes and grants them anew, after the views and in the same transaction.
-- Make another role that reads the views (of a dashboard) a member of els_ops: the next upgrade drops the views, and a
-- grant of its own with them.

revoke all on schema els, ops from public, els_app, els_ops;
revoke all on all tables in schema els, ops from public, els_app, els_ops;
revoke all on all sequences in schema els from public, els_app, els_ops;

grant usage on schema els, ops to els_app;
grant select on all tables in schema ops to els_app;
grant select on els.alembic_version, els.slice, els.transfer, els.unpublished, els.expirable_content, els.expirable_failures,
    els.expirable_confirmations, els.ended_batches to els_app;
grant select on
    els.own_batches,
    els.own_slots,
    els.own_pending_content,
    els.own_excess_content,
    els.own_validation_failures,
    els.own_confirmations,
    els.own_incomplete_batches,
    els.own_outbox_blocked,
    els.own_quarantine,
    els.own_operator_actions,
    els.own_expirable_content,
    els.own_expirable_failures,
    els.own_expirable_confirmations,
    els.own_ended_batches
to els_app;
-- The purge ends the trimming after a split.
grant update (trims) on els.slice to els_app;
grant usage on sequence els.arrivals, els.quarantine_id_seq, els.outbox_seq_seq to els_app;
-- A recovery sets the number of the next row above all that were published.
grant update on sequence els.outbox_seq_seq to els_app;

grant select, insert, update, delete on
    els.batches,
    els.slots,
    els.pending_content,
    els.excess_content,
    els.validation_failures,
    els.confirmations,
    els.outbox_blocked,
    els.relays,
    els.quarantine,
    els.topic_refusals,
    els.rejected_bytes,
    els.crash_marks,
    els.progress,
    els.server_identity,
    els.recovery,
    els.purge_hold,
    els.incomplete_batches,
    els.trimming,
    els.pods,
    els.search,
    els.search_progress
to els_app;

-- Rows of the outbox, and operator actions, are inserted and deleted, never updated. The time of an action is the
-- transaction's.
grant select, insert, delete on els.outbox_pages, els.outbox to els_app;
grant select, delete, insert (who, action, batch_id, topic, why, details) on els.operator_actions to els_app;
grant select, insert, update on els.lost_inputs, els.input_topics, els.output_topics, els.notices, els.purge_rounds
to els_app;
grant select, insert, update on els.skipped_inputs to els_app;
grant select, update on els.relay_shards, els.policy, els.outbox_format, els.expired_seen to els_app;
-- Tombstones are deleted by the purge only. They change from "a part" to "all" of a batch. Keys stay.
grant select, insert, update, delete on els.erasures to els_app;
grant select, insert on els.erasure_keys to els_app;
grant execute on function els.blank_operator_actions, els.add_erasure_key to els_app;

grant usage on schema ops to els_ops;
grant select on all tables in schema ops to els_ops;

-- A database that its cell has left is never written again (sql/queries/cells/move_cell.sql).
do $$
begin
    if exists (select from els.slice, els.transfer where slice.fenced and transfer.state = 'done') then
        revoke insert, update, delete, truncate on all tables in schema els from els_app;
    end if;
end
$$;
