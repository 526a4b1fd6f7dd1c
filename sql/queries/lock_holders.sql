-- Whom a migration perhaps waits for: the oldest transaction of others that holds a lock in the outbox, of
-- whatever kind: after the failure nobody can tell which lock it was. Where they
-- are another role's, its age and application are told to members of pg_read_all_stats only.
-- $1 schema
SELECT a.pid, a.application_name, extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age
  FROM pg_locks l
  JOIN pg_class c ON c.oid = l.relation
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE n.nspname = $1 AND l.granted AND a.pid <> pg_backend_pid()
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
 ORDER BY a.xact_start NULLS LAST, a.pid
 LIMIT 1
