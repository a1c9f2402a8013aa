-- Shows the tombstones of what was erased. Reads the whole table.

create view ops.erasures as
select
    encode(digest, 'hex') as digest,
    key_id,
    kind,
    erased_at
from els.erasures;

comment on view ops.erasures is
    'What was erased, as keyed digests: the same data is blanked where it arrives again.';
comment on column ops.erasures.digest is 'HMAC-SHA-256 of what was erased, in hexadecimal';
comment on column ops.erasures.key_id is 'which key it is made with; the key itself is in els.erasure_keys, for the service only';
comment on column ops.erasures.kind is 'user, batch, part (of a batch), text or upload: inputs of it are blanked; mention (an id) or name (of a file): rejected inputs that contain it are blanked';
comment on column ops.erasures.erased_at is 'when it was erased last';
