-- Tables some of whose rows row security may hide from the connected role. Hidden rows look like none:
-- an idle outbox, messages without a delivery, deliveries without their message. A policy that shows
-- the role every row is as good as none.
-- $1 schema
SELECT c.relname AS name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
         SELECT bool_or(p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true') AS shows_all,
                bool_or(NOT p.polpermissive) AS narrows
           FROM pg_catalog.pg_policy p
          WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*')
            AND EXISTS (SELECT FROM unnest(p.polroles) AS r (oid)
                         WHERE r.oid = 0 OR pg_has_role(r.oid, 'USAGE'))) p ON true
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relrowsecurity AND row_security_active(c.oid)
   AND (p.shows_all IS NOT TRUE OR p.narrows)
 ORDER BY c.relname
