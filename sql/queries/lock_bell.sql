-- "I am about to sleep": from here on producers ring.
-- $1 bell class, $2 bell
SELECT pg_try_advisory_lock($1, $2) AS held
