-- Which rights a role lacks. By the catalogs, which need no right, and not by name,
-- which needs one on the schema.
-- $1 schema, $2 tables, $3 a right on each of them, $4 functions, $5 role, none: the connected one, to
-- which is told what is not there at all, too
SELECT 'USAGE on schema ' || n.nspname AS wanting
  FROM pg_catalog.pg_namespace n
 WHERE n.nspname = $1 AND NOT has_schema_privilege(coalesce($5, current_user), n.oid, 'USAGE')
UNION ALL
SELECT w.privilege || ' on ' || w.name
  FROM unnest($2::text[], $3::text[]) AS w (name, privilege)
  LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
    ON n.nspname = $1 AND c.relname = w.name
 WHERE NOT coalesce(has_table_privilege(coalesce($5, current_user), c.oid, w.privilege), $5 IS NOT NULL)
UNION ALL
SELECT 'EXECUTE on function ' || f.name
  FROM unnest($4::text[]) AS f (name)
  LEFT JOIN (pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace)
    ON n.nspname = $1 AND p.proname = f.name
 WHERE NOT coalesce(has_function_privilege(coalesce($5, current_user), p.oid, 'EXECUTE'), $5 IS NOT NULL)
