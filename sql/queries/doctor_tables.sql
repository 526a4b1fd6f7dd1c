-- How each table stands with vacuum and with row security, by the catalogs and by the statistics, which cost
-- nothing however large it is. Ledger partitions are written once and are left out.
-- $1 schema
SELECT c.relname::text AS name, c.relrowsecurity AS row_security,
       coalesce((SELECT o.option_value FROM pg_options_to_table(c.reloptions) o
                  WHERE o.option_name = 'autovacuum_enabled') IN ('false', 'off', 'no', '0'), false) AS vacuum_off,
       (SELECT o.option_value FROM pg_options_to_table(c.reloptions) o
         WHERE o.option_name = 'autovacuum_vacuum_scale_factor')::float8 AS scale_factor,
       coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_dead_tup, 0) AS dead,
       pg_total_relation_size(c.oid) AS bytes
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition
 ORDER BY c.relname
