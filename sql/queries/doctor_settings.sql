-- Settings as they are for this role in this database, timeouts in their unit, and where each comes from.
-- $1 their names; those that this version of the server does not have are left out
SELECT s.name, s.setting, s.source FROM pg_catalog.pg_settings s WHERE s.name = ANY ($1)
