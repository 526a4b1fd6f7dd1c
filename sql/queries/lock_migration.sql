-- One migration at a time in this database; lock_timeout bounds the wait.
-- $1 a number for the schema
SELECT pg_advisory_xact_lock($1)
