-- What is left of the server for this role, and how much of it the role may see.
SELECT current_database()::text AS database, current_user::text AS role, r.rolsuper AS is_super,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_stats,
       pg_notification_queue_usage() AS queue,
       least(current_setting('max_connections')::bigint
               - current_setting('superuser_reserved_connections')::bigint
               - coalesce(current_setting('reserved_connections', true)::bigint, 0)
               - count(*) FILTER (WHERE a.backend_type = 'client backend' OR a.backend_type IS NULL),
             CASE WHEN d.datconnlimit >= 0 THEN d.datconnlimit - count(*) FILTER (WHERE a.datname = d.datname) END,
             CASE WHEN r.rolconnlimit >= 0 THEN r.rolconnlimit - count(*) FILTER (WHERE a.usename = r.rolname) END
            ) AS connections_left
  FROM pg_catalog.pg_roles r
 CROSS JOIN pg_catalog.pg_database d
 CROSS JOIN pg_catalog.pg_stat_activity a
 WHERE r.rolname = current_user AND d.datname = current_database()
 GROUP BY r.rolsuper, r.rolconnlimit, r.rolname, d.datconnlimit, d.datname
