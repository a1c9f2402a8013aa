-- Shows violations of the invariants I1 to I5; always empty. Reads the batches that changed in the last hour (index
-- batches_changed) and the rows of each by keys that begin with the batch, then all uploads that wait (indexes
-- pending_content_due and validation_failures_due). Lookups are subqueries in the select list, or limited, so that none
-- can become a join that reads all slots.

create view ops.invariant_violations as
with recent as materialized (
    select batch_id, expected, assigned, failed, withdrawn, state, class_id, confirmed_at
    from els.own_batches as batches
    where changed_at > now() - interval '1 hour'
), counted as materialized (
    select recent.*, slots.*
    from recent
    cross join lateral (
        select
            count(*) as slots,
            count(*) filter (where slots.state = 'open') as slots_open,
            count(*) filter (where slots.state = 'assigned') as slots_assigned,
            count(*) filter (where slots.state = 'failed') as slots_failed,
            count(*) filter (where slots.state = 'withdrawn') as slots_withdrawn,
            count(distinct slots.position) filter (where slots.position <= recent.expected) as positions
        from els.own_slots as slots
        where slots.batch_id = recent.batch_id
    ) as slots
), announced as materialized (
    select recent.batch_id, recent.state, ready.events
    from recent
    cross join lateral (
        select count(distinct split_part(line.event, '"', 4)) as events
        from els.own_unpublished as unpublished
        cross join lateral string_to_table(unpublished.events, E'\n') as line (event)
        where unpublished.batch_id = recent.batch_id
        and unpublished.topics ? 'huleedu.els.batch.essays.ready.v1'
        and split_part(line.event, '"', 8) = 'huleedu.els.batch.essays.ready.v1'
    ) as ready
), excess as (
    select
        excess_content.batch_id,
        excess_content.text_storage_id,
        (
            select slots.essay_id
            from els.own_slots as slots
            where slots.batch_id = excess_content.batch_id
            and slots.text_storage_id = excess_content.text_storage_id
            limit 1
        ) as essay_id
    from recent
    cross join lateral (
        select excess_content.batch_id, excess_content.text_storage_id
        from els.own_excess_content as excess_content
        where excess_content.batch_id = recent.batch_id
        offset 0
    ) as excess_content
), kept as (
    select pending_content.batch_id, pending_content.text_storage_id, pending_content.state
    from recent
    cross join lateral (
        select pending_content.batch_id, pending_content.text_storage_id, pending_content.state
        from els.own_pending_content as pending_content
        where pending_content.batch_id = recent.batch_id
        offset 0
    ) as pending_content
    union
    select batch_id, text_storage_id, state
    from els.own_pending_content as pending_content
    where state = 'pending'
), held as materialized (
    select
        kept.batch_id,
        kept.text_storage_id,
        kept.state,
        (
            select batches.registered_at
            from els.own_batches as batches
            where batches.batch_id = kept.batch_id
        ) as registered_at,
        (
            select slots.essay_id
            from els.own_slots as slots
            where slots.batch_id = kept.batch_id
            and slots.text_storage_id = kept.text_storage_id
            limit 1
        ) as essay_id,
        (
            select excess_content.declared_at
            from els.own_excess_content as excess_content
            where excess_content.batch_id = kept.batch_id
            and excess_content.text_storage_id = kept.text_storage_id
        ) as declared_at
    from kept
), failures as (
    select validation_failures.batch_id, validation_failures.file_upload_id, validation_failures.state
    from recent
    cross join lateral (
        select validation_failures.batch_id, validation_failures.file_upload_id, validation_failures.state
        from els.own_validation_failures as validation_failures
        where validation_failures.batch_id = recent.batch_id
        offset 0
    ) as validation_failures
    union
    select batch_id, file_upload_id, state
    from els.own_validation_failures as validation_failures
    where state = 'pending'
), judged as materialized (
    select
        failures.batch_id,
        failures.file_upload_id,
        failures.state,
        (
            select batches.registered_at
            from els.own_batches as batches
            where batches.batch_id = failures.batch_id
        ) as registered_at,
        (
            select slots.essay_id
            from els.own_slots as slots
            where slots.batch_id = failures.batch_id
            and slots.file_upload_id = failures.file_upload_id
            and slots.state = 'failed'
            limit 1
        ) as essay_id
    from failures
), taken as materialized (
    select slots.*
    from recent
    cross join lateral (
        select slots.batch_id, slots.essay_id, slots.state, slots.text_storage_id, slots.file_upload_id
        from els.own_slots as slots
        where slots.batch_id = recent.batch_id
        and num_nonnulls(slots.text_storage_id, slots.file_upload_id) > 0
        offset 0
    ) as slots
)
select
    invariant,
    batch_id,
    els.shown(detail) as detail
from (
    select
        'I1' as invariant,
        batch_id,
        format('content %s is in slot %s and excess', text_storage_id, essay_id) as detail
    from excess
    where essay_id is not null
    union all
    select 'I1', batch_id, format('content %s is in slot %s and %s', text_storage_id, essay_id, state)
    from held
    where essay_id is not null
    union all
    select 'I1', batch_id, format('content %s is excess and %s', text_storage_id, state)
    from held
    where declared_at is not null
    union all
    select 'I2', batch_id, format('content %s is in %s slots', text_storage_id, count(*))
    from taken
    where text_storage_id is not null
    group by batch_id, text_storage_id
    having count(*) > 1
    union all
    select 'I2', batch_id, format('failure %s took %s slots', file_upload_id, count(*))
    from taken
    where state = 'failed'
    group by batch_id, file_upload_id
    having count(*) > 1
    union all
    select 'I2', batch_id, format('slot %s is %s and holds content %s', essay_id, state, text_storage_id)
    from taken
    where text_storage_id is not null
    and state <> 'assigned'
    union all
    select 'I3', batch_id, format('%s of its slots are open and content %s is excess', slots_open, (
        select excess.text_storage_id
        from excess
        where excess.batch_id = counted.batch_id
        order by excess.text_storage_id
        limit 1
    ))
    from counted
    where slots_open > 0
    and exists (
        select from excess
        where excess.batch_id = counted.batch_id
    )
    union all
    select 'I4', batch_id, format('content %s is %s, but registered since %s', text_storage_id, state, registered_at)
    from held
    where state in ('pending', 'expired')
    and registered_at is not null
    union all
    select 'I4', batch_id, format('failure %s is %s, but registered since %s', file_upload_id, state, registered_at)
    from judged
    where state in ('pending', 'expired')
    and registered_at is not null
    union all
    select 'I4', batch_id, format('the confirmation of class %s is pending, but registered since %s', class_id, registered_at)
    from (
        select
            batch_id,
            class_id,
            (
                select batches.registered_at
                from els.own_batches as batches
                where batches.batch_id = confirmations.batch_id
            ) as registered_at
        from els.own_confirmations as confirmations
        where state = 'pending'
    ) as confirmations
    where registered_at is not null
    union all
    select 'I5', batch_id, format('failure %s took slot %s and is %s', file_upload_id, essay_id, state)
    from judged
    where essay_id is not null
    and state <> 'slot'
    union all
    select 'I5', batch_id, format('slot %s was taken by failure %s, which is not recorded', essay_id, file_upload_id)
    from taken
    where state = 'failed'
    and (
        select validation_failures.stored_at
        from els.own_validation_failures as validation_failures
        where validation_failures.batch_id = taken.batch_id
        and validation_failures.file_upload_id = taken.file_upload_id
    ) is null
    union all
    select 'I5', batch_id, format('failure %s took a slot that is not there', file_upload_id)
    from judged
    where essay_id is null
    and state = 'slot'
    union all
    select
        'I5',
        batch_id,
        format(
            'counts %s assigned, %s failed and %s withdrawn of %s, has slots: %s assigned, %s failed, %s withdrawn, %s open',
            assigned, failed, withdrawn, expected, slots_assigned, slots_failed, slots_withdrawn, slots_open
        )
    from counted
    where (assigned, failed, withdrawn, expected)
    is distinct from (slots_assigned, slots_failed, slots_withdrawn, slots)
    union all
    select 'I5', batch_id, format('its slots take %s of %s positions', positions, expected)
    from counted
    where positions <> expected
    union all
    select
        'I5',
        batch_id,
        format(
            'is %s with %s slots assigned, %s failed, %s withdrawn, %s open',
            state, slots_assigned, slots_failed, slots_withdrawn, slots_open
        )
    from counted
    where state <> case
        when slots_open > 0 then 'registered'
        when state = 'cancelled' then 'cancelled'
        when slots_assigned = 0 then 'failed'
        when state = 'complete' and coalesce(class_id, '') <> '' and confirmed_at is null then 'complete'
        else 'ready'
    end
    union all
    select 'I5', batch_id, format('is %s and is announced as ready by %s events', state, events)
    from announced
    where events > case state when 'ready' then 1 else 0 end
) as violations;

comment on view ops.invariant_violations is
    'Each violation of an invariant, of batches that changed in the last hour and of all uploads that wait; always empty.';
comment on column ops.invariant_violations.invariant is
    'I1 one place for each content; I2 one content for each slot; I3 no excess while a slot is open; I4 nothing waits for a registered batch; I5 counters, state and announcement fit the slots';
comment on column ops.invariant_violations.batch_id is 'the batch';
comment on column ops.invariant_violations.detail is 'what is wrong';
