-- Which of these group roles exist.
-- $1 names
SELECT r.rolname::text AS name FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1)
