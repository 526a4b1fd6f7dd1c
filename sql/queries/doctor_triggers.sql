-- Triggers that do not fire for producers or relays.
-- $1 schema
SELECT c.relname::text AS table_name, t.tgname::text AS name
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND NOT t.tgisinternal AND NOT c.relispartition AND t.tgenabled NOT IN ('O', 'A')
 ORDER BY 1, 2
