-- What holds back vacuum: sessions with a snapshot or a transaction, replication slots, prepared transactions,
-- standbys with feedback; the longest first. A session of another database does not hold back our tables, but
-- for what it does to shared ones. Ages of other roles' sessions are NULL without pg_read_all_stats.
SELECT h.kind, h.name, h.pid, h.application, h.role, h.state, h.seconds, h.transactions
  FROM (
    SELECT 'session' AS kind, a.pid::text AS name, a.pid, coalesce(a.application_name, '') AS application,
           a.usename::text AS role, coalesce(a.state, '') AS state,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
           age(coalesce(a.backend_xmin, a.backend_xid))::bigint AS transactions
      FROM pg_catalog.pg_stat_activity a
     WHERE a.pid <> pg_backend_pid() AND a.datname = current_database()
       AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
       AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
    UNION ALL
    SELECT 'slot', s.slot_name::text, s.active_pid, coalesce(s.plugin, 'physical')::text, NULL,
           CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL, age(s.xmin)::bigint
      FROM pg_catalog.pg_replication_slots s
     WHERE s.xmin IS NOT NULL
    UNION ALL
    SELECT 'prepared', p.gid, NULL, '', p.owner::text, '',
           extract(epoch FROM clock_timestamp() - p.prepared)::float8, age(p.transaction)::bigint
      FROM pg_catalog.pg_prepared_xacts p
     WHERE p.database = current_database()
    UNION ALL
    SELECT 'standby', r.pid::text, r.pid, coalesce(r.application_name, ''), r.usename::text, coalesce(r.state, ''),
           NULL, age(r.backend_xmin)::bigint
      FROM pg_catalog.pg_stat_replication r
     WHERE r.backend_xmin IS NOT NULL
  ) h
 ORDER BY h.seconds DESC NULLS LAST, h.transactions DESC NULLS LAST
 LIMIT 100
