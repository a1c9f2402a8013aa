-- Removes a pod that ends.
-- Index: pods_pkey. Locks: its row.
delete from els.pods
where pod = :pod::uuid
