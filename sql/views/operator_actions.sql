-- Shows which operator changed what, and why. Of one batch: index operator_actions_batch; of a time:
-- operator_actions_at.

create view ops.operator_actions as
select
    id,
    at,
    els.shown(who) as who,
    action,
    batch_id,
    topic,
    els.shown_lines(why) as why,
    els.shown_json(details) as details,
    erased_at,
    els.safe_json(
        jsonb_build_object(
            'at', at, 'who', who, 'action', action, 'batch_id', batch_id, 'topic', topic, 'why', why, 'details', details
        )::text
    ) as act
from els.own_operator_actions as operator_actions;

comment on view ops.operator_actions is
    'Each change that an operator made, written in the transaction of the change itself.';
comment on column ops.operator_actions.id is 'its number, in the order in which changes were written';
comment on column ops.operator_actions.at is 'when; equal to closed_at of the rows that it closed';
comment on column ops.operator_actions.who is '--who of the command, else the account that ran it';
comment on column ops.operator_actions.action is 'which command: pending remove, quarantine replay, …';
comment on column ops.operator_actions.batch_id is 'the batch that it changed; null where it was none';
comment on column ops.operator_actions.topic is 'the topic that it changed; null where it was none';
comment on column ops.operator_actions.why is 'the reason given with --why; empty where none was';
comment on column ops.operator_actions.details is 'what exactly: how many, which ones, with what outcome';
comment on column ops.operator_actions.erased_at is 'when its texts were erased, since they named what was erased; null unless they were';
comment on column ops.operator_actions.act is
    'all of it as JSON, exactly as given, for `recover --acts`: what a terminal obeys is escaped';
