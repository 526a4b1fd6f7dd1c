-- Whom we are talking to, and as whom: the role's groups tell what it is for. The owner is the schema's, or
-- the database's where that is missing; it may let members into a group as its administrator, and before
-- PostgreSQL 16 as anybody who may create roles.
-- $1 name of the relays' group role, $2 of the producers', $3 schema
SELECT s.number, current_setting('server_version') AS version, current_database()::text AS database,
       current_user::text AS role, pg_is_in_recovery() AS standby, g.relay IS NOT NULL AS has_group,
       coalesce(pg_has_role(g.relay, 'USAGE'), false) AS relay,
       coalesce(pg_has_role(g.producer, 'USAGE'), false) AS producer,
       o.rolname::text AS owner,
       coalesce(pg_has_role(o.oid, g.relay, 'USAGE WITH ADMIN OPTION'), false)
         OR o.rolcreaterole AND s.number < 160000 AS owner_grants
  FROM (SELECT current_setting('server_version_num')::integer AS number) s
 CROSS JOIN (SELECT to_regrole($1)::oid AS relay, to_regrole($2)::oid AS producer) g
  JOIN pg_catalog.pg_database d ON d.datname = current_database()
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = $3
  LEFT JOIN pg_catalog.pg_roles o ON o.oid = coalesce(n.nspowner, d.datdba)
