-- "I am awake": producers need not ring.
-- $1 bell class, $2 bell
SELECT pg_advisory_unlock($1, $2)
