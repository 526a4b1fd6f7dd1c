-- Of today and tomorrow (UTC), the days that the ledger has no partition for: what is closed then has nowhere
-- to stand.
-- $1 schema
SELECT d.day::text AS day
  FROM (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(0, 1) n) d
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = $1 AND c.relispartition
                      AND c.relname = 'ledger_' || to_char(d.day, 'YYYYMMDD'))
 ORDER BY 1
