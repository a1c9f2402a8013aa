-- Shows what happened and needs no action any more, until an operator has seen it; losses of inputs are in
-- ops.lost_inputs, expired content is in ops.expired_content, late batches in ops.batches. Read by notices_pkey.

create view ops.notices as
select
    id,
    kind,
    at,
    els.shown_lines(detail) as detail,
    acknowledged_at
from els.notices
order by id desc;

comment on view ops.notices is
    'Events that need no action any more; `health acknowledge` marks them as seen. Losses of inputs, expired content and late batches are in other views.';
comment on column ops.notices.id is 'number of the notice';
comment on column ops.notices.kind is 'clocks (the purge was held, and goes on) or servers (the database moved to another server)';
comment on column ops.notices.at is 'when it was noted';
comment on column ops.notices.detail is 'what happened';
comment on column ops.notices.acknowledged_at is 'when an operator marked it as seen; null until then';
