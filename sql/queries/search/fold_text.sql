-- Returns a text as file names are compared.
-- Index: none. Locks: none.
select els.folded(:text::text)
