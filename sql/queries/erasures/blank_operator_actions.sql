-- Blanks the texts of operator actions, by the function of the owner (migration 0010). Returns how many.
-- Index: none, the whole table is read, which is short. Locks: the rows.
select els.blank_operator_actions(:batch_id::text, :inputs::text[], :ids::text[], :names::text[])
