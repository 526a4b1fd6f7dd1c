-- Whether nobody else is at a schedule; nobody will be until the end of this transaction. Not a lock on
-- its row, which others must be able to write while a long query runs; and nobody waits for it.
-- $1 schedule
SELECT pg_try_advisory_xact_lock('outbox.occurrence'::regclass::oid::integer, hashtext($1)) AS held
