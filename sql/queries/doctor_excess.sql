-- Roles that may change what only relays may: rights to change rows beyond what migrations grant. The owner
-- is left out, and so is whom we are where there is no group role to grant to. INSERT into message is what
-- producers are for.
-- $1 schema, $2 the relays' group role, $3 whether it exists
SELECT c.relname::text AS table_name,
       CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee,
       string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type) AS rights
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL aclexplode(c.relacl) x
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND x.grantee <> c.relowner
   AND x.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
   AND NOT (c.relname = 'message' AND x.privilege_type = 'INSERT')
   AND (x.privilege_type IN ('TRUNCATE', 'TRIGGER') OR c.relname = 'message'
        OR NOT (x.grantee <> 0 AND (pg_get_userbyid(x.grantee) = $2
                                    OR NOT $3 AND pg_get_userbyid(x.grantee) = current_user)))
 GROUP BY c.relname, x.grantee
 ORDER BY 1, 2
