-- Who may do what, laid again from nothing by every upgrade, after the views, in their transaction.
-- Another role that is to read the views (a dashboard's) becomes a member of els_ops; a grant of its own
-- would go with the next upgrade.

revoke all on schema els, ops from public, els_app, els_ops;
revoke all on all tables in schema els, ops from public, els_app, els_ops;
revoke all on all sequences in schema els from public, els_app, els_ops;

grant usage on schema els, ops to els_app;
grant select on all tables in schema ops to els_app;
grant select on els.alembic_version to els_app;
grant usage on sequence els.arrivals, els.quarantine_id_seq to els_app;

grant select, insert, update, delete on
    els.batches,
    els.slots,
    els.pending_content,
    els.excess_content,
    els.validation_failures,
    els.outbox_blocked,
    els.relays,
    els.quarantine,
    els.topic_refusals,
    els.crash_marks
to els_app;

-- The outbox's rows, and those of the audit, are written and deleted, never changed.
grant select, insert, delete on els.outbox, els.operator_actions to els_app;
grant select, update on els.relay_shards, els.policy to els_app;

grant usage on schema ops to els_ops;
grant select on all tables in schema ops to els_ops;
